//! Disks as reactor threads.

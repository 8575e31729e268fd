//! Encrypted volumes on real processes: what is written is on no disk and on no wire, and keys change while it is.
#![forbid(unsafe_code)]

mod rotation;
mod secrecy;

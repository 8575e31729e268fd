//! The built `cairn` against engines that are faked: what it prints, what it asks of them, and with which code it exits.

mod cluster;
mod dev;
mod disk;
mod engines;
mod fake;
mod run;
mod volume;

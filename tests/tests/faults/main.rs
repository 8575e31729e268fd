//! Engines killed, stopped, terminated and started again while a client writes: no acknowledged block may be lost, and
//! no client that talks to a living engine may see an error.
#![forbid(unsafe_code)]

mod durable;
mod kill;
mod pause;
mod replace;
mod restart;
mod scene;
mod scrub;

//! This engine's part in the cluster: how it becomes a member ([`init`]), and how it keeps in line with the catalogue
//! ([`reconcile`], [`peers`]).

pub mod init;
pub mod peers;
pub mod reconcile;

#[cfg(test)]
mod tests;

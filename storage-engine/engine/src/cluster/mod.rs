//! This engine's part in the cluster: how it becomes a member ([`init`], [`join`]), how it keeps in line with the catalogue
//! ([`reconcile`], [`peers`]), how volumes grow ([`expand`]), how
//! gateways hear of that ([`tell`]), and how replicas are succeeded by others ([`replace`],
//! [`succeed`]).

mod clones;
mod expand;
pub mod init;
pub mod join;
pub mod peers;
pub mod reconcile;
mod replace;
mod snapshots;
mod succeed;
mod tell;
mod watch;

#[cfg(test)]
mod encryption_tests;
#[cfg(test)]
mod replace_tests;
#[cfg(test)]
mod tests;

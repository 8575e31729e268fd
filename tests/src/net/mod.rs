//! A network for one cluster, apart from the machine's own: engines in namespaces of their own, joined by a bridge, and
//! what can go wrong on the way between them.

mod fabric;
mod namespace;
mod relay;
mod weather;

pub use fabric::Fabric;
pub use namespace::Namespace;
pub use relay::Relay;
pub use weather::{Clog, End, Weather};

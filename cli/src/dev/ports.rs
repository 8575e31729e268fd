//! Says which port is taken before an engine would fail on it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::layout::EnginePlan;
use crate::error::{CliError, Kind};

/// Tries every port of every engine, and lets go of it again.
pub(super) fn refuse_if_taken(engines: &[EnginePlan]) -> Result<(), CliError> {
    for engine in engines {
        for (use_of, address) in engine.ports() {
            probe(&engine.name, use_of, address)?;
        }
    }
    Ok(())
}

fn probe(engine: &str, use_of: &str, address: SocketAddr) -> Result<(), CliError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(CliError::new(
            Kind::Conflict,
            format!(
                "port {} is in use, but engine {engine} needs it for {use_of}",
                address.port()
            ),
            format!(
                "see who has it (`ss -ltnp sport = :{}`), or, for a new cluster, choose another --base-port",
                address.port()
            ),
        )),
        Err(error) => Err(CliError::failed(
            format!("engine {engine} cannot listen on {address} for {use_of}: {error}"),
            "",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_engine_and_use() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = probe("b", "peers", address).unwrap_err();
        assert_eq!(
            error.what,
            format!("port {} is in use, but engine b needs it for peers", address.port())
        );
        drop(taken);
        assert!(probe("b", "peers", address).is_ok());
    }
}

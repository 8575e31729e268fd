//! Connections to other engines' control APIs: one a peer, dialled when first used, kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cairn_api::control::control_client::ControlClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// How long a dial may take: peers are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call may take in all; longer than the longest wait of a request (a volume's creation).
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that answers no ping for so long is gone, although its connection stands.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The longest message: a catalogue of a hundred thousand volumes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The connections.
#[derive(Debug, Default)]
pub struct Channels {
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Channels {
    /// A client of the engine at `address` (`host:port`).
    pub fn client(&self, address: &str) -> Result<ControlClient<Channel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| Status::internal(format!("'{address}' is no control address: {error}")))?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .timeout(CALL_TIMEOUT)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE)
                    .connect_lazy();
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(ControlClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

//! A server that speaks Vault's Transit API as documented, for tests: keys with versions, a token, errors on request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_crypto::MasterKey;
use serde_json::{Value, json};

pub(super) const TOKEN: &str = "hvs.test";

/// What it knows, and how it is to behave.
#[derive(Default)]
pub(super) struct Vaulted {
    /// By name, the keys of versions 1, 2 and so on, and the least version that decrypts.
    pub(super) keys: BTreeMap<String, (Vec<MasterKey>, u32)>,
    /// Statuses to answer with instead, the next first.
    pub(super) failures: Vec<u16>,
    /// How long to wait before answering.
    pub(super) delay: Duration,
    /// The next answer of `rewrap` is of this secret instead.
    pub(super) swaps: Option<Vec<u8>>,
    pub(super) requests: Vec<String>,
    nonce: u8,
}

pub(super) type Shared = Arc<Mutex<Vaulted>>;

pub(super) fn lock(shared: &Shared) -> MutexGuard<'_, Vaulted> {
    shared.lock().unwrap()
}

/// Serves on this machine until the test's runtime ends.
pub(super) async fn serve() -> (SocketAddr, Shared) {
    let shared = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/v1/transit/keys/{name}", get(read_key))
        .route("/v1/transit/{operation}/{name}", post(operate))
        .with_state(Arc::clone(&shared));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, shared)
}

impl Vaulted {
    /// A new version of a key, and the key if it is the first.
    pub(super) fn rotate(&mut self, name: &str) {
        let (versions, _) = self.keys.entry(name.to_owned()).or_insert_with(|| (Vec::new(), 1));
        let byte = u8::try_from(versions.len()).unwrap() + 0x40;
        versions.push(MasterKey::new(&[byte; 32]));
    }

    fn encrypt(&mut self, name: &str, secret: &[u8]) -> Value {
        self.nonce += 1;
        let (versions, _) = &self.keys[name];
        let sealed = versions[versions.len() - 1]
            .seal([self.nonce; 12], b"", secret)
            .unwrap();
        json!({ "data": { "ciphertext": format!("vault:v{}:{}", versions.len(), STANDARD.encode(sealed)) } })
    }

    fn decrypt(&self, name: &str, ciphertext: &str) -> Result<Vec<u8>, &'static str> {
        let (versions, least) = &self.keys[name];
        let rest = ciphertext
            .strip_prefix("vault:v")
            .ok_or("invalid ciphertext: no prefix")?;
        let (version, sealed) = rest.split_once(':').ok_or("invalid ciphertext: no version")?;
        let version: usize = version
            .parse()
            .map_err(|_| "invalid ciphertext: version number could not be decoded")?;
        if version < *least as usize {
            return Err("ciphertext or signature version is disallowed by policy (too old)");
        }
        let key = version.checked_sub(1).and_then(|place| versions.get(place));
        let sealed = STANDARD
            .decode(sealed)
            .map_err(|_| "invalid ciphertext: could not decode base64")?;
        let key = key.ok_or("invalid ciphertext: version is too new")?;
        let secret = key
            .open(b"", &sealed)
            .map_err(|_| "cipher: message authentication failed")?;
        Ok(secret.to_vec())
    }
}

fn refuse(status: u16, reason: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, json!({ "errors": [reason] }).to_string()).into_response()
}

async fn enter(shared: &Shared, headers: &HeaderMap, what: String) -> Result<(), Response> {
    let (delay, failure) = {
        let mut state = lock(shared);
        state.requests.push(what);
        let failure = (!state.failures.is_empty()).then(|| state.failures.remove(0));
        (state.delay, failure)
    };
    tokio::time::sleep(delay).await;
    if let Some(status) = failure {
        return Err(refuse(status, "told to fail"));
    }
    if headers.get("x-vault-token").is_none_or(|token| token != TOKEN) {
        return Err(refuse(403, "permission denied"));
    }
    Ok(())
}

async fn read_key(State(shared): State<Shared>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Err(refusal) = enter(&shared, &headers, format!("keys {name}")).await {
        return refusal;
    }
    match lock(&shared).keys.get(&name) {
        Some((versions, least)) => {
            let data =
                json!({ "latest_version": versions.len(), "min_decryption_version": least, "type": "aes256-gcm96" });
            json!({ "data": data }).to_string().into_response()
        }
        None => refuse(404, "no handler for the key"),
    }
}

async fn operate(
    State(shared): State<Shared>,
    Path((operation, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refusal) = enter(&shared, &headers, format!("{operation} {name}")).await {
        return refusal;
    }
    let mut state = lock(&shared);
    if !state.keys.contains_key(&name) {
        return refuse(400, "encryption key not found");
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let ciphertext = request["ciphertext"].as_str().unwrap_or_default();
    let answer = match operation.as_str() {
        "encrypt" => {
            let secret = STANDARD.decode(request["plaintext"].as_str().unwrap()).unwrap();
            Ok(state.encrypt(&name, &secret))
        }
        "decrypt" => {
            let secret = state.decrypt(&name, ciphertext);
            secret.map(|secret| json!({ "data": { "plaintext": STANDARD.encode(secret) } }))
        }
        "rewrap" => state.decrypt(&name, ciphertext).map(|secret| {
            let secret = state.swaps.take().unwrap_or(secret);
            state.encrypt(&name, &secret)
        }),
        _ => return refuse(404, "no handler"),
    };
    answer.map_or_else(
        |reason| refuse(400, reason),
        |answer| answer.to_string().into_response(),
    )
}

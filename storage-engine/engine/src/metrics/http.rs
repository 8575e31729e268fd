//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::EngineCollector;
use crate::engine::Engine;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
}

/// The routes of `engine`.
pub fn router(engine: &Arc<Engine>) -> Router {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(EngineCollector::new(Arc::downgrade(engine))));
    let shared = Shared {
        engine: Arc::clone(engine),
        registry: Arc::new(registry),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared)
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &shared.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.engine.readiness() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

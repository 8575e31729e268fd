//! The control API: client, server and messages, generated from `proto/control.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/control.proto"
)]
#![allow(clippy::all, clippy::pedantic, reason = "generated from proto/control.proto")]

tonic::include_proto!("cairn.control.v1");

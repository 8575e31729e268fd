//! The device's errors in the protocol's terms ("Error values").

use cairn_api::block::BlockError;

use super::judge::Refusal;
use crate::wire::{ErrorCode, command};

/// The error reply to a request that the device failed.
pub(super) fn refusal(command: u16, error: &BlockError) -> Refusal {
    let code = match error {
        BlockError::OutOfRange { .. } if matches!(command, command::WRITE | command::WRITE_ZEROES) => {
            ErrorCode::NoSpace
        }
        BlockError::OutOfRange { .. } | BlockError::Invalid(_) => ErrorCode::Invalid,
        BlockError::NoSpace => ErrorCode::NoSpace,
        // This attachment is over for good: a client that sees this error must leave.
        BlockError::Fenced { .. } | BlockError::ShuttingDown => ErrorCode::Shutdown,
        BlockError::Busy { .. } | BlockError::ReadOnly => ErrorCode::NotPermitted,
        BlockError::Io(_) => ErrorCode::Io,
    };
    Refusal::new(code, error.to_string())
}

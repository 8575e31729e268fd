//! Values of flags: sizes, times, addresses. A value that cannot be read is refused by name, never guessed.

use std::time::Duration;

use cairn_api::units::{BLOCK_BYTES, ByteSize};

use super::ENGINE_DEFAULT;

/// The longest `--timeout`: an hour. Beyond it a typing mistake is likelier than a wish.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Reads a size that must be a positive multiple of the 4 KiB block.
///
/// # Errors
/// A sentence for the user.
pub fn parse_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|error: cairn_api::units::ParseSizeError| error.to_string())?;
    if size.0 == 0 {
        return Err("a size of 0 bytes is of no use: give at least 4KiB".to_owned());
    }
    if !size.0.is_multiple_of(BLOCK_BYTES) {
        let below = size.0 / BLOCK_BYTES * BLOCK_BYTES;
        let above = below.saturating_add(BLOCK_BYTES);
        let near = if below == 0 {
            format!("{above}")
        } else {
            format!("{below} or {above}")
        };
        return Err(format!(
            "{} bytes are not a multiple of the block of {BLOCK_BYTES}: try {near}",
            size.0
        ));
    }
    Ok(size)
}

/// Reads `500ms`, `30s`, `2m`, or a bare number of seconds.
///
/// # Errors
/// A sentence for the user.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let refuse = || format!("'{text}' is not a time: write a whole number and a unit, such as 500ms, 30s or 2m");
    let (digits, milliseconds) = if let Some(digits) = text.strip_suffix("ms") {
        (digits, 1)
    } else if let Some(digits) = text.strip_suffix('s') {
        (digits, 1000)
    } else if let Some(digits) = text.strip_suffix('m') {
        (digits, 60_000)
    } else {
        (text, 1000)
    };
    let count: u64 = digits.trim().parse().map_err(|_| refuse())?;
    let timeout = Duration::from_millis(count.checked_mul(milliseconds).ok_or_else(refuse)?);
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        return Err(format!(
            "{text} is out of bounds: between 1ms and {}m",
            TIMEOUT_MAX.as_secs() / 60
        ));
    }
    Ok(timeout)
}

/// Reads the control address of an engine and adds the default port where there is none.
///
/// # Errors
/// A sentence for the user.
pub fn parse_engine(text: &str) -> Result<String, String> {
    let refuse = || format!("'{text}' is not an address: write HOST or HOST:PORT, such as {ENGINE_DEFAULT}");
    let address = text.trim().trim_start_matches("http://").trim_end_matches('/');
    // An IPv6 address stands in brackets, so that its colons are not taken for the port's.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !(bracketed || host.chars().all(plain)) {
        return Err(refuse());
    }
    match port {
        None => Ok(format!("{host}:7400")),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port != 0 => Ok(format!("{host}:{port}")),
            _ => Err(refuse()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_blocks_and_the_refusal_names_the_nearest() {
        assert_eq!(parse_size("1GiB"), Ok(ByteSize(1 << 30)));
        assert_eq!(
            parse_size("5000").unwrap_err(),
            "5000 bytes are not a multiple of the block of 4096: try 4096 or 8192"
        );
        assert_eq!(
            parse_size("1B").unwrap_err(),
            "1 bytes are not a multiple of the block of 4096: try 4096"
        );
        assert!(parse_size("ten").unwrap_err().contains("'ten' is not a size"));
    }

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(parse_timeout("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_timeout("7"), Ok(Duration::from_secs(7)));
        for text in [
            "",
            "s",
            "-1s",
            "0s",
            "61m",
            "1h",
            "99999999999999999999s",
            "18446744073709551615m",
        ] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_get_the_default_port_and_nonsense_is_refused() {
        for (text, address) in [
            ("host", "host:7400"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("http://host:7410/", "host:7410"),
            ("[::1]", "[::1]:7400"),
            ("[::1]:7410", "[::1]:7410"),
        ] {
            assert_eq!(parse_engine(text).as_deref(), Ok(address), "{text}");
        }
        for text in [
            "",
            ":7400",
            "host:",
            "host:x",
            "host:0",
            "host:70000",
            "::1",
            "a b",
            "https://host",
        ] {
            assert!(parse_engine(text).is_err(), "{text}");
        }
    }
}

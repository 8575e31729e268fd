//! An engine's `/metrics`, read as a Prometheus server would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One page of metrics.
#[derive(Debug, Clone)]
pub struct Page {
    /// The samples: name, labels as written, value.
    pub samples: Vec<(String, String, f64)>,
}

impl Page {
    /// Fetches the page from the metrics port.
    pub fn fetch(address: SocketAddr) -> Result<Self> {
        let (code, body) = get(address, "/metrics")?;
        if code != 200 {
            bail!("/metrics answered {code}");
        }
        Ok(Self::parse(&body))
    }

    /// Parses the text form; comments and lines without a value are left out.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(sample)
            .collect();
        Self { samples }
    }

    /// The sum over all labels of the metric called `name`; `None` if there is none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|sample| sample.0 == name)
            .map(|sample| sample.2)
            .peekable();
        found.peek()?;
        Some(found.sum())
    }
}

fn sample(line: &str) -> Option<(String, String, f64)> {
    let (key, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match key.split_once('{') {
        Some((name, labels)) => (name, labels.trim_end_matches('}')),
        None => (key, ""),
    };
    Some((name.to_owned(), labels.to_owned(), value))
}

/// How long an engine may take to accept a connection, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A plain HTTP GET: the status code and the body.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| address.to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0 keeps the answer free of chunks.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split_whitespace().nth(1).context("no status code")?.parse()?;
    Ok((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_labels_and_skips_comments() {
        let page = Page::parse("# HELP x y\nx_total{disk=\"1\"} 3\nx_total{disk=\"2\"} 4\ny 1.5\n# EOF\n");
        assert_eq!(page.sum("x_total"), Some(7.0));
        assert_eq!(page.sum("y"), Some(1.5));
        assert_eq!(page.sum("z"), None);
    }
}

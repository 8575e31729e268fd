//! TLS, with certificates that `openssl` makes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cairn_tests::cluster::{scratch_dir, with_fresh};
use cairn_tests::config::Tls;
use cairn_tests::nbd::Client;
use cairn_tests::{ClusterOptions, Tool};

/// A certificate authority in the files that libnbd expects, and a server's certificate for loopback.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn make(dir: &Path) -> Result<Self> {
        let openssl = |args: &[&str]| Tool::new("openssl").args(args).dir(dir).ok().map(|_| ());
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let mut root = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
        root.extend(["-keyout", "ca-key.pem", "-out", "ca-cert.pem"]);
        root.extend([
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=keyCertSign",
        ]);
        root.extend(key);
        openssl(&root)?;
        let mut request = vec![
            "req",
            "-subj",
            "/CN=localhost",
            "-keyout",
            "server-key.pem",
            "-out",
            "server.csr",
        ];
        request.extend(key);
        openssl(&request)?;
        let names =
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n";
        fs::write(dir.join("server.ext"), names)?;
        let mut sign = vec![
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            "server.csr",
            "-out",
            "server-cert.pem",
        ];
        sign.extend([
            "-CA",
            "ca-cert.pem",
            "-CAkey",
            "ca-key.pem",
            "-CAcreateserial",
            "-extfile",
            "server.ext",
        ]);
        openssl(&sign)?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    fn server(&self, required: bool) -> Tls {
        Tls {
            certificate: self.dir.join("server-cert.pem"),
            key: self.dir.join("server-key.pem"),
            required,
        }
    }
}

/// One engine is enough: TLS is between the client and its engine.
fn one_engine(tls: Tls) -> ClusterOptions {
    ClusterOptions {
        engines: 1,
        tls: Some(tls),
        ..ClusterOptions::default()
    }
}

#[test]
fn a_client_that_trusts_the_authority_reads_and_writes() -> Result<()> {
    let dir = scratch_dir("tls")?;
    let authority = Authority::make(&dir)?;
    with_fresh(&one_engine(authority.server(true)), |cluster| {
        cluster.create_volume("secret", 16 << 20)?;
        let port = cluster.engines[0].config.nbd;
        let uri = format!("nbds://127.0.0.1:{port}/secret?tls-certificates={}", dir.display());
        let report = Tool::new("nbdinfo").args(["--json", &uri]).ok()?.json()?;
        ensure!(report["TLS"] == true, "{report}");
        let file = dir.join("data");
        Tool::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "count=16", "status=none"])
            .arg(format!("of={}", file.display()))
            .ok()?;
        Tool::new("nbdcopy").arg(&file).arg(&uri).ok()?;
        let back = dir.join("back");
        Tool::new("nbdcopy").arg(&uri).arg(&back).ok()?;
        Tool::new("cmp").args([&file, &back]).ok()?;

        // Without TLS the port serves nobody, and says why.
        let error = Client::connect(&cluster.engines[0].nbd_tcp(), "secret")
            .map(|_| ())
            .unwrap_err();
        ensure!(format!("{error:#}").contains("refused"), "{error:#}");
        // The unix socket does without: whoever may open it is on this machine and has its permissions.
        Client::connect(&cluster.engines[0].nbd_unix(), "secret")?.disconnect()
    })?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

#[test]
fn a_client_that_trusts_another_authority_turns_away() -> Result<()> {
    let (dir, other) = (scratch_dir("tls")?, scratch_dir("tls")?);
    let authority = Authority::make(&dir)?;
    Authority::make(&other)?;
    with_fresh(&one_engine(authority.server(false)), |cluster| {
        cluster.create_volume("secret", 16 << 20)?;
        let port = cluster.engines[0].config.nbd;
        let uri = format!("nbds://127.0.0.1:{port}/secret?tls-certificates={}", other.display());
        let ran = Tool::new("nbdinfo").arg(&uri).run()?;
        ensure!(
            ran.code != Some(0),
            "a certificate of a stranger was trusted: {}",
            ran.text()
        );
        // The engine took no harm from the broken handshake, and TLS is not required here.
        Client::connect(&cluster.engines[0].nbd_tcp(), "secret")?.write(0, &[1; 4096])
    })?;
    fs::remove_dir_all(&dir)?;
    fs::remove_dir_all(&other)?;
    Ok(())
}

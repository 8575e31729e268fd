//! A configuration that says something the engine does not know, or cannot do.

use std::fs;

use anyhow::{Result, ensure};
use cairn_tests::cluster::scratch_dir;
use cairn_tests::{Binaries, Tool};

/// Runs `cairn-engine --check` on a configuration and returns its complaint.
fn complaint(text: &str) -> Result<String> {
    let dir = scratch_dir("settings")?;
    let path = dir.join("engine.toml");
    fs::write(&path, text)?;
    let ran = Tool::new(&Binaries::for_tests()?.engine)
        .arg("--config")
        .arg(&path)
        .arg("--check")
        .run()?;
    ensure!(ran.code != Some(0), "this was accepted:\n{text}");
    fs::remove_dir_all(&dir)?;
    Ok(ran.text())
}

const GOOD: &str = "name = \"a\"\ndata_dir = \"/nonexistent/cairn\"\n[[disk]]\npath = \"/nonexistent/disk\"\n";

#[test]
fn an_unknown_key_is_refused_by_name() -> Result<()> {
    let text = complaint(&format!("colour = \"blue\"\n{GOOD}"))?;
    ensure!(text.contains("colour"), "{text}");
    let text = complaint(&format!("{GOOD}speed = 11\n"))?;
    ensure!(text.contains("speed"), "{text}");
    Ok(())
}

#[test]
fn values_out_of_range_are_refused_with_the_key() -> Result<()> {
    let text = complaint(&GOOD.replace("\"a\"", "\"No Such Name\""))?;
    ensure!(text.contains("name"), "{text}");
    let text = complaint(&format!("{GOOD}memory = \"lots\"\n"))?;
    ensure!(text.contains("memory") || text.contains("lots"), "{text}");
    let text = complaint(&GOOD.replace("[[disk]]\npath = \"/nonexistent/disk\"\n", ""))?;
    ensure!(text.contains("disk"), "{text}");
    Ok(())
}

#[test]
fn listening_to_the_world_needs_a_word() -> Result<()> {
    let text = complaint(&format!("{GOOD}[control]\nlisten = \"0.0.0.0:7400\"\n"))?;
    ensure!(text.contains("allow_insecure_network"), "{text}");
    Ok(())
}

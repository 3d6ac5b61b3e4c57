//! The jars of Kafka and Elasticsearch: fetched once by Maven into the shared cache, with our small launcher compiled.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::{
    instance::{cache, root},
    progress::{Progress, Said},
};

/// Folders with what the Java servers need on their class paths.
pub(crate) struct Jars {
    pub(crate) kafka: PathBuf,
    pub(crate) elasticsearch: PathBuf,
}

impl Jars {
    /// Fetches and compiles what is not there yet, or what its sources in `deploy/dev` have outdated.
    pub(crate) fn ensure(progress: &Progress) -> anyhow::Result<Self> {
        let (cache, sources) = (cache()?, root()?.join("deploy/dev"));
        let jars = Self { kafka: cache.join("kafka"), elasticsearch: cache.join("elasticsearch") };
        let kafka = [sources.join("kafka-pom.xml")];
        if !is_current(&jars.kafka, &kafka)? {
            progress.step("kafka jars", |said| {
                fetch(&kafka[0], &jars.kafka, said)?;
                done(&jars.kafka, &kafka)
            })?;
        }
        let elasticsearch =
            ["elasticsearch-pom.xml", "ElasticsearchMain.java", "RootPlugin.java"].map(|name| sources.join(name));
        if !is_current(&jars.elasticsearch, &elasticsearch)? {
            progress.step("elastic jars", |said| {
                fetch(&elasticsearch[0], &jars.elasticsearch, said)?;
                said.say("compiling the launcher");
                compile(&jars.elasticsearch, &elasticsearch[1..])?;
                said.say("with the launcher");
                done(&jars.elasticsearch, &elasticsearch)
            })?;
        }
        Ok(jars)
    }
}

/// The sources that a folder was made from are kept in it: it is current while they are the same.
fn is_current(dir: &Path, sources: &[PathBuf]) -> anyhow::Result<bool> {
    Ok(fs::read(dir.join("made-from")).is_ok_and(|made_from| text_of(sources).is_ok_and(|text| text == made_from)))
}

fn done(dir: &Path, sources: &[PathBuf]) -> anyhow::Result<()> {
    Ok(fs::write(dir.join("made-from"), text_of(sources)?)?)
}

fn text_of(sources: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    for source in sources {
        text.extend(fs::read(source).with_context(|| format!("read {}", source.display()))?);
    }
    Ok(text)
}

fn fetch(pom: &Path, dir: &Path, said: &Said) -> anyhow::Result<()> {
    said.say("fetching from Maven Central");
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let output = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .stdin(Stdio::null())
        .output()
        .context("run mvn")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().collect();
        bail!("maven could not fetch {}:\n{}", pom.display(), lines[lines.len().saturating_sub(12)..].join("\n"));
    }
    let count = fs::read_dir(dir)?.count();
    said.say(format!("{count} jars"));
    Ok(())
}

fn compile(dir: &Path, sources: &[PathBuf]) -> anyhow::Result<()> {
    let output = Command::new("javac")
        .args(["-nowarn", "-proc:none", "-cp"])
        .arg(format!("{}/*", dir.display()))
        .arg("-d")
        .arg(dir)
        .args(sources)
        .stdin(Stdio::null())
        .output()
        .context("run javac")?;
    if !output.status.success() {
        bail!("javac: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

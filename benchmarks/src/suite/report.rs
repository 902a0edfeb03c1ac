//! `REPORT.md`: the parts that there are, whenever they were measured.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::sections;

/// Its name.
pub const FILE: &str = "REPORT.md";

const BEGIN: &str = "\
# What Clipper costs and what it holds

Written by `make bench`. Every number is the median of several short rounds of `clipper bench` ([docs/bench.md](../../docs/bench.md)), in which
whatever is compared took turns; every ratio of answers is the median of the rounds' own. Server, containers and generator share the machine, so trust ratios more
than numbers. The programs of the commands are in `target/release/`; `bare` (`benchmarks/src/bin/bare.rs`) prints where it listens, written here as port 8080.
";

/// Where one part is.
pub fn part(folder: &Path, name: &str) -> PathBuf {
    folder.join("parts").join(format!("{name}.md"))
}

/// Puts the parts together.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    let mut text = BEGIN.to_owned();
    for (name, _) in sections::ALL {
        if let Ok(part) = std::fs::read_to_string(part(folder, name)) {
            text.push_str(&format!("\n## {}\n\n{part}", sections::title(name)));
        }
    }
    let file = folder.join(FILE);
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

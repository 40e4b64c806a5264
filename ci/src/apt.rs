// SPDX-License-Identifier: GPL-2.0

//! The Debian mirror that this machine uses, read from its apt configuration.

use std::fs;
use std::path::Path;

/// The mirror that Debian's own installations start with.
const DEFAULT: &str = "http://deb.debian.org/debian";

/// The machine's mirror of Debian.
pub(crate) fn mirror() -> String {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            match file.extension()?.to_str()? {
                "list" => one_line(&text),
                "sources" => deb822(&text),
                _ => None,
            }
        })
        .next()
        .unwrap_or_else(|| DEFAULT.into())
}

/// Whether an archive with this address and suite is Debian's main one.
fn is_debian(uri: &str, suite: &str) -> bool {
    let path = uri.trim_end_matches('/');
    let release = suite.split('-').next().unwrap_or_default();
    let known = [
        "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable",
    ];
    path.ends_with("/debian") && known.contains(&release)
}

/// The form `deb [options] URI suite components`.
fn one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim();
        let line = line
            .strip_prefix("deb")?
            .trim_start_matches("-src")
            .trim_start();
        let line = match line.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1.trim_start(),
            None => line,
        };
        let mut words = line.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        is_debian(uri, suite).then(|| uri.to_owned())
    })
}

/// The form of paragraphs with fields.
fn deb822(text: &str) -> Option<String> {
    let uncommented: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    uncommented
        .split(|line| line.trim().is_empty())
        .find_map(|paragraph| {
            let field = |name: &str| -> Vec<&str> {
                let mut inside = false;
                let mut words = Vec::new();
                for line in paragraph {
                    let value = if line.starts_with([' ', '\t']) {
                        line
                    } else {
                        let (found, value) = line.split_once(':').unwrap_or((line, ""));
                        inside = found.eq_ignore_ascii_case(name);
                        value
                    };
                    if inside {
                        words.extend(value.split_whitespace());
                    }
                }
                words
            };
            if field("Enabled")
                .iter()
                .any(|word| word.eq_ignore_ascii_case("no"))
            {
                return None;
            }
            let suites = field("Suites");
            field("URIs")
                .into_iter()
                .find(|uri| suites.iter().any(|suite| is_debian(uri, suite)))
                .map(str::to_owned)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_one_line_sources() {
        let text = "# deb http://old.example/debian bookworm main\n\
                    deb http://other.example/repo bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://near.example/debian/ bookworm main contrib\n";
        assert_eq!(
            one_line(text).as_deref(),
            Some("http://near.example/debian/")
        );
    }

    #[test]
    fn the_mirror_of_paragraphs() {
        let text = "Types: deb\n# a comment\nURIs: http://x.example/debian-security\nSuites: trixie-security\n\n\
                    Types: deb\nURIs:\n http://near.example/debian\nSuites: trixie trixie-updates\n";
        assert_eq!(deb822(text).as_deref(), Some("http://near.example/debian"));
    }

    #[test]
    fn disabled_and_foreign_archives_are_passed_over() {
        assert_eq!(
            deb822("Enabled: no\nURIs: http://a.example/debian\nSuites: trixie\n"),
            None
        );
        assert_eq!(
            deb822("URIs: http://a.example/debian\nSuites: nodistro\n"),
            None
        );
        assert_eq!(one_line("deb http://a.example/ubuntu noble main\n"), None);
        assert_eq!(one_line("deb\n"), None);
    }
}

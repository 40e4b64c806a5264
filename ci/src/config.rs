// SPDX-License-Identifier: GPL-2.0

//! The kernel's configuration: fragments, and the proof that they took.

use anyhow::{ensure, Result};

/// Fails when a line of `fragments` did not end up in `config`, and names each that did not.
pub(crate) fn check(fragments: &str, config: &str) -> Result<()> {
    let wrong: Vec<String> = wanted(fragments)
        .into_iter()
        .filter(|(name, value)| {
            let found = option(config, name).unwrap_or("n");
            found != *value
        })
        .map(|(name, value)| match option(config, name) {
            Some(found) => format!("{name}={value} became {found}"),
            None => format!("{name}={value} is not set"),
        })
        .collect();
    ensure!(
        wrong.is_empty(),
        "the kernel's configuration did not take {}: an option that it depends on is missing, or it is gone",
        wrong.join(", ")
    );
    Ok(())
}

/// What an option is set to; `None` when it is not set.
pub(crate) fn option<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    config
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The options of fragments, where the last line for an option counts.
fn wanted(fragments: &str) -> Vec<(&str, &str)> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for line in fragments
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("CONFIG_"))
    {
        if let Some((name, value)) = line.split_once('=') {
            wanted.retain(|(earlier, _)| *earlier != name);
            wanted.push((name, value));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "CONFIG_A=y\nCONFIG_AB=m\n# CONFIG_C is not set\nCONFIG_N=16\n";

    #[test]
    fn what_took_is_fine() {
        check(
            "# note\nCONFIG_A=y\nCONFIG_AB=m\nCONFIG_C=n\nCONFIG_GONE=n\nCONFIG_N=16\n",
            CONFIG,
        )
        .unwrap();
    }

    #[test]
    fn what_did_not_take_is_named() {
        let error = check("CONFIG_A=y\nCONFIG_AB=y\nCONFIG_C=y\nCONFIG_A_=y\n", CONFIG)
            .unwrap_err()
            .to_string();
        assert!(error.contains("CONFIG_AB=y became m"), "{error}");
        assert!(error.contains("CONFIG_C=y is not set"), "{error}");
        assert!(error.contains("CONFIG_A_=y is not set"), "{error}");
        assert!(!error.contains("CONFIG_A=y"), "{error}");
    }

    #[test]
    fn an_option_that_must_be_off_is_named_when_it_is_on() {
        let error = check("CONFIG_A=n\n", CONFIG).unwrap_err().to_string();
        assert!(error.contains("CONFIG_A=n became y"), "{error}");
    }

    #[test]
    fn the_last_line_for_an_option_counts() {
        check("CONFIG_A=n\nCONFIG_A=y\n", CONFIG).unwrap();
    }
}

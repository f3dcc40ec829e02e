//! `roster man-pages`: manual pages, for packages.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;

/// Write a manual page for Roster, and one for each of its commands
#[derive(Debug, Args)]
pub(crate) struct ManPages {
    /// An existing folder
    folder: PathBuf,
}

impl ManPages {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        for (name, text) in pages()? {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The pages by file name.
fn pages() -> anyhow::Result<Vec<(String, String)>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    let mut waiting = vec![command];
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().filter(|child| !child.is_hide_set()).cloned());
        pages.push(page(command)?);
    }
    Ok(pages)
}

fn page(command: Command) -> anyhow::Result<(String, String)> {
    let man = Man::new(command.clone()).source(concat!("roster ", env!("CARGO_PKG_VERSION"))).manual("Roster");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let text = String::from_utf8(text)?.replace(".SH EXTRA\nExit codes:\n", ".SH \"EXIT STATUS\"\n.nf\n");
    let lines = text.lines().map(str::trim_end).map(|line| {
        let is_synopsis = line.starts_with("\\fBroster");
        let line = if is_synopsis { with_values(&command, line) } else { line.to_owned() };
        line + "\n"
    });
    Ok((man.get_filename(), lines.collect()))
}

/// A synopsis that shows the value of each option that takes one.
fn with_values(command: &Command, synopsis: &str) -> String {
    let options = command.get_arguments().filter(|option| option.get_action().takes_values());
    options.fold(synopsis.to_owned(), |synopsis, option| {
        let (Some(long), Some([value, ..])) = (option.get_long(), option.get_value_names()) else { return synopsis };
        let option = format!("\\fB\\-\\-{}\\fR]", long.replace('-', "\\-"));
        synopsis.replace(&option, &format!("{} \\fI{}\\fR]", option.trim_end_matches(']'), value.replace('-', "\\-")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(name: &str) -> String {
        let pages = pages().expect("pages");
        pages.into_iter().find(|(file, _)| file == name).expect("a page").1
    }

    #[test]
    fn a_page_has_a_title_a_synopsis_with_values_the_variables_and_the_exit_status() {
        let page = page_of("roster-serve.1");
        let title = format!(".TH roster-serve 1  \"roster {}\" Roster\n", env!("CARGO_PKG_VERSION"));
        let synopsis = "[\\fB\\-\\-config\\fR \\fIFILE\\fR] [\\fB\\-\\-set\\fR \\fIKEY=VALUE\\fR]";
        for part in [&title, synopsis, "ROSTER_CONFIG", ".SH \"EXIT STATUS\"\n.nf\n    0  done\n"] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("EXTRA") && page.lines().all(|line| line == line.trim_end()), "{page}");
    }

    #[test]
    fn every_command_that_is_not_hidden_has_a_page() {
        let names: Vec<_> = pages().expect("pages").into_iter().map(|(name, _)| name).collect();
        for name in ["roster.1", "roster-config-check.1", "roster-explain-access-call.1"] {
            assert!(names.iter().any(|page| page == name), "{names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("man-pages") || name.contains("help")), "{names:?}");
    }
}

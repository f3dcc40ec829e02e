//! The report: tables, printed and kept in Markdown, and plots beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::{Form, plot};

/// `target/bench/report.md`, and what is printed.
#[derive(Debug)]
pub(crate) struct Report {
    folder: PathBuf,
    text: String,
    began: Instant,
}

impl Report {
    pub(crate) fn new(form: Form) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        fs::create_dir_all(&folder).expect("a folder for the report");
        let mut report = Self { folder, text: String::new(), began: Instant::now() };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        report.line("# Roster, side by side");
        report.say(&format!("{form:?} form, {cores} cores. Quote the ratios: absolute times are this machine's."));
        report
    }

    /// Begins a part, with what it compares.
    pub(crate) fn part(&mut self, title: &str, about: &str) {
        self.line(&format!("\n## {title}"));
        self.say(about);
    }

    /// A paragraph.
    pub(crate) fn say(&mut self, text: &str) {
        self.line(&format!("\n{text}"));
    }

    pub(crate) fn table(&mut self, title: &str, header: &[&str], rows: &[Vec<String>]) {
        self.line(&format!("\n### {title}\n"));
        let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
        let all = || std::iter::once(&header).chain(rows);
        let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..header.len()).map_while(width).collect();
        let rule = widths.iter().enumerate().map(|(n, width)| {
            let dashes = "-".repeat(width + 1);
            if n == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
        });
        let rule = format!("|{}|", rule.collect::<Vec<_>>().join("|"));
        self.row(&widths, &header);
        self.line(&rule);
        rows.iter().for_each(|row| self.row(&widths, row));
    }

    /// Single figures: what, and how much.
    pub(crate) fn figures(&mut self, title: &str, figures: &[(&str, String)]) {
        let rows: Vec<_> = figures.iter().map(|(what, value)| vec![(*what).to_owned(), value.clone()]).collect();
        self.table(title, &["", "measured"], &rows);
    }

    /// A plot of bars, in groups.
    pub(crate) fn plot(&mut self, file: &str, title: &str, groups: &[plot::Group]) {
        let path = self.folder.join(file).with_extension("svg");
        fs::write(&path, plot::svg(title, groups)).expect("the plot is written");
        self.text.push_str(&format!("\n![{title}]({file}.svg)\n"));
    }

    pub(crate) fn finish(mut self) {
        self.say(&format!("({} s)", self.began.elapsed().as_secs()));
        let path = self.folder.join("report.md");
        fs::write(&path, &self.text).expect("the report is written");
        println!("\n{}", path.display());
    }

    fn row(&mut self, widths: &[usize], row: &[String]) {
        let cells = row.iter().zip(widths).enumerate().map(|(n, (cell, width))| match n {
            0 => format!(" {cell:<width$} "),
            _ => format!(" {cell:>width$} "),
        });
        self.line(&format!("|{}|", cells.collect::<Vec<_>>().join("|")));
    }

    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }
}

pub(crate) fn verdict(is_met: bool) -> &'static str {
    if is_met { "✓" } else { "✗" }
}

//! Plots: horizontal bars in groups, as SVG.

use std::fmt::Write;

/// Bars that are compared with one another.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: String,
    /// The label, the value, and the value as it is written.
    pub(crate) bars: Vec<(String, f64, String)>,
}

const WIDTH: f64 = 760.0;
const LABELS: f64 = 170.0;
const LONGEST: f64 = 470.0;
const BAR: f64 = 18.0;
const COLOURS: [&str; 6] = ["#9a9a9a", "#1f6feb", "#54a0ff", "#d9534f", "#6cb33f", "#b58900"];

/// Each group has a scale of its own, for what differs between groups would hide what differs within.
pub(crate) fn svg(title: &str, groups: &[Group]) -> String {
    let mut body = text(10.0, 24.0, 16, "start", title);
    let mut y = 44.0;
    for group in groups {
        y += BAR;
        body += &text(10.0, y, 13, "start", &group.title);
        let most = group.bars.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for ((label, value, written), colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
            y += BAR + 2.0;
            let long = (value / most * LONGEST).max(1.0);
            body += &text(LABELS - 8.0, y, 12, "end", label);
            let (top, height) = (y - BAR + 5.0, BAR - 2.0);
            let _ =
                writeln!(body, r#"<rect x="{LABELS}" y="{top}" width="{long:.1}" height="{height}" fill="{colour}"/>"#);
            body += &text(LABELS + long + 6.0, y, 12, "start", written);
        }
        y += BAR;
    }
    let height = y + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn text(x: f64, y: f64, size: u32, anchor: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

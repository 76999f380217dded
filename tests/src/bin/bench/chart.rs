//! A bar chart as SVG: groups of bars, one colour for each way of running.

use std::fmt::Write;

/// One bar: which way of running, how long, and what is written at its end.
pub struct Bar {
    pub series: usize,
    pub value: f64,
    pub text: String,
}

/// Bars of one server.
pub struct Group {
    pub title: &'static str,
    pub bars: Vec<Bar>,
}

/// Alone, agent, agent elsewhere, official clients: told apart also without colour, by their lightness.
const COLOURS: [&str; 5] = ["#9aa5b1", "#1f6feb", "#a5c8ff", "#e8912d", "#f6c78b"];

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 110.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const TOP: f64 = 62.0;

/// Draws bars from zero; the longest takes the whole width.
pub fn bars(title: &str, series: &[&str], groups: &[Group]) -> String {
    let longest =
        groups.iter().flat_map(|group| &group.bars).map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let rows: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + rows as f64 * BAR + groups.len() as f64 * GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, 12.0, 22.0, "font-size=\"15\" font-weight=\"bold\"", title);
    let mut x = 12.0;
    for (name, colour) in series.iter().zip(COLOURS) {
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"34\" width=\"11\" height=\"11\" fill=\"{colour}\"/>");
        text(&mut svg, x + 16.0, 44.0, "", name);
        x += 34.0 + 7.0 * name.len() as f64;
    }
    let mut y = TOP;
    for group in groups {
        text(&mut svg, 12.0, y + 12.0, "", group.title);
        for bar in &group.bars {
            let length = (bar.value / longest * (WIDTH - LEFT - RIGHT)).max(1.0);
            let colour = COLOURS[bar.series % COLOURS.len()];
            let thickness = BAR - 3.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{thickness}\" fill=\"{colour}\"/>"
            );
            text(&mut svg, LEFT + length + 6.0, y + 11.0, "", &bar.text);
            y += BAR;
        }
        y += GAP;
    }
    svg + "</svg>\n"
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#1c2128\" {style}>{words}</text>");
}

//! Line plots as SVG, small enough to be read in a diff.

use std::fmt::Write as _;

/// Pixels of the whole, and of the frame's place in it.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 580.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 380.0;
/// From one line of the legend to the next.
const LEGEND_STEP: f64 = 22.0;
/// Told apart by those who see few colours (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [&str; 4] = ["#d55e00", "#0072b2", "#009e73", "#cc79a7"];

/// One of the two axes.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// What it shows, with its unit.
    pub(super) label: String,
    pub(super) min: f64,
    pub(super) max: f64,
    /// From one tick to the next.
    pub(super) step: f64,
}

/// A line.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// Which of the colours.
    pub(super) colour: usize,
    pub(super) is_dashed: bool,
    /// From left to right.
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

impl Axis {
    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (min, max, step) = (self.min, self.max, self.step);
        let ticks = (0..).map(move |number| min + f64::from(number) * step);
        ticks.take_while(move |tick| *tick <= max + step / 1000.0)
    }

    /// Where a value is between two pixels.
    fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        from + (value - self.min) / (self.max - self.min) * (to - from)
    }
}

impl Plot {
    /// The whole file.
    pub(super) fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        text(&mut svg, ((LEFT + RIGHT) / 2.0, 28.0), "middle", &self.title);
        self.axes(&mut svg);
        for (number, series) in self.series.iter().enumerate() {
            self.line(&mut svg, series);
            let y = TOP + 10.0 + number as f64 * LEGEND_STEP;
            let points = [(RIGHT + 16.0, y), (RIGHT + 46.0, y)];
            stroke(&mut svg, series, &points);
            marks(&mut svg, series, &[(RIGHT + 31.0, y)]);
            text(&mut svg, (RIGHT + 54.0, y + 4.0), "start", &series.name);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String) {
        for tick in self.x.ticks() {
            let x = self.x.place(tick, LEFT, RIGHT);
            rule(svg, (x, TOP), (x, BOTTOM));
            text(svg, (x, BOTTOM + 20.0), "middle", &shown(tick));
        }
        for tick in self.y.ticks() {
            let y = self.y.place(tick, BOTTOM, TOP);
            rule(svg, (LEFT, y), (RIGHT, y));
            text(svg, (LEFT - 8.0, y + 4.0), "end", &shown(tick));
        }
        let (width, height) = (RIGHT - LEFT, BOTTOM - TOP);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"black\"/>"
        );
        text(svg, ((LEFT + RIGHT) / 2.0, BOTTOM + 44.0), "middle", &self.x.label);
        let middle = (TOP + BOTTOM) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"24\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 24 {middle})\">{}</text>",
            escaped(&self.y.label)
        );
    }

    fn line(&self, svg: &mut String, series: &Series) {
        let place = |(x, y): &(f64, f64)| (self.x.place(*x, LEFT, RIGHT), self.y.place(*y, BOTTOM, TOP));
        let places: Vec<(f64, f64)> = series.points.iter().map(place).collect();
        stroke(svg, series, &places);
        marks(svg, series, &places);
    }
}

fn stroke(svg: &mut String, series: &Series, places: &[(f64, f64)]) {
    let points: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let dashes = if series.is_dashed {
        " stroke-dasharray=\"6 4\""
    } else {
        ""
    };
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dashes}/>",
        points.join(" "),
        colour(series)
    );
}

fn marks(svg: &mut String, series: &Series, places: &[(f64, f64)]) {
    let fill = if series.is_dashed { "white" } else { colour(series) };
    for (x, y) in places {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{}\" stroke-width=\"2\"/>",
            colour(series)
        );
    }
}

fn colour(series: &Series) -> &'static str {
    COLOURS[series.colour % COLOURS.len()]
}

fn rule(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn shown(tick: f64) -> String {
    let rounded = (tick * 100.0).round() / 100.0;
    rounded.to_string()
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_at_their_values_between_labelled_ticks() {
        let axis = |label: &str, max| Axis {
            label: label.to_owned(),
            min: 0.0,
            max,
            step: max / 2.0,
        };
        let plot = Plot {
            title: "a < b".to_owned(),
            x: axis("seconds", 10.0),
            y: axis("bytes", 4.0),
            series: vec![Series {
                name: "one".to_owned(),
                colour: 0,
                is_dashed: false,
                points: vec![(0.0, 0.0), (10.0, 4.0)],
            }],
        };
        let svg = plot.to_svg();
        assert!(svg.contains("points=\"70.0,380.0 580.0,50.0\""), "{svg}");
        for words in [
            ">a &lt; b<",
            ">seconds<",
            ">bytes<",
            ">one<",
            ">0<",
            ">5<",
            ">10<",
            ">2<",
            ">4<",
        ] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
    }
}

//! Plots as SVG. Text is left to the viewer's fonts, so none is needed here.

use std::path::{Path, PathBuf};

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::report::{Latency, Report};
use crate::search::{Round, Search};

const SIZE: (u32, u32) = (820, 420);
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(90, 90, 90),
    RGBColor(140, 86, 75),
    RGBColor(23, 190, 207),
];

/// A plot that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot plot to {file}: {problem}")]
pub struct PlotError {
    file: PathBuf,
    problem: String,
}

/// One named curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// What the legend calls it.
    pub name: String,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
}

/// Curves over one axis.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What is above it.
    pub title: String,
    /// What x is, with the unit.
    pub x: String,
    /// What y is, with the unit.
    pub y: String,
    /// Whether x is drawn by its logarithm.
    pub log_x: bool,
    /// Whether y is.
    pub log_y: bool,
    /// What is drawn.
    pub curves: Vec<Curve>,
}

impl Plot {
    /// Writes it as SVG.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), PlotError> {
        let (x, y) = (self.range(|point| point.0, self.log_x), self.range(|point| point.1, self.log_y));
        let drawn = match (self.log_x, self.log_y) {
            (false, false) => self.draw(file, x.0..x.1, y.0..y.1),
            (true, false) => self.draw(file, (x.0..x.1).log_scale(), y.0..y.1),
            (false, true) => self.draw(file, x.0..x.1, (y.0..y.1).log_scale()),
            (true, true) => self.draw(file, (x.0..x.1).log_scale(), (y.0..y.1).log_scale()),
        };
        drawn.map_err(|problem| PlotError { file: file.to_owned(), problem })
    }

    /// What an axis spans: from zero, or from the least positive value of a logarithmic one.
    fn range(&self, of: impl Fn(&(f64, f64)) -> f64, log: bool) -> (f64, f64) {
        let values = self.curves.iter().flat_map(|curve| curve.points.iter().map(&of));
        let values: Vec<f64> = values.filter(|value| value.is_finite() && (!log || *value > 0.0)).collect();
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        match (values.is_empty(), log) {
            (true, _) => (0.1, 1.0),
            (false, true) => (least / 1.2, most * 1.2),
            (false, false) => (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
        }
    }

    fn draw<X, Y>(&self, file: &Path, x: X, y: Y) -> Result<(), String>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| told(&error))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d(x, y)
            .map_err(|error| told(&error))?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .label_style(("sans-serif", 13))
            .light_line_style(RGBColor(240, 240, 240))
            .bold_line_style(RGBColor(220, 220, 220))
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()
            .map_err(|error| told(&error))?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let points = curve
                .points
                .iter()
                .copied()
                .filter(|(x, y)| x.is_finite() && y.is_finite() && (!self.log_y || *y > 0.0));
            let points: Vec<(f64, f64)> = points.collect();
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))
                .map_err(|error| told(&error))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", 13))
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .draw()
            .map_err(|error| told(&error))?;
        root.present().map_err(|error| told(&error))
    }
}

/// One bar a name.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What is above them.
    pub title: String,
    /// What they show, with the unit.
    pub y: String,
    /// The names and the heights.
    pub bars: Vec<(String, f64)>,
}

impl Bars {
    /// Writes them as SVG.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), PlotError> {
        self.draw(file).map_err(|problem| PlotError { file: file.to_owned(), problem })
    }

    fn draw(&self, file: &Path) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let most = self.bars.iter().map(|(_, height)| *height).fold(0.0, f64::max);
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| told(&error))?;
        let names = (0..self.bars.len()).into_segmented();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(70)
            .build_cartesian_2d(names, 0.0..if most > 0.0 { most * 1.1 } else { 1.0 })
            .map_err(|error| told(&error))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_desc(&self.y)
            .label_style(("sans-serif", 13))
            .x_labels(self.bars.len())
            .x_label_formatter(&|segment| match segment {
                SegmentValue::CenterOf(index) => {
                    self.bars.get(*index).map_or_else(String::new, |(name, _)| name.clone())
                }
                SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
            })
            .y_label_formatter(&|value| number(*value))
            .draw()
            .map_err(|error| told(&error))?;
        let bars = self.bars.iter().enumerate().filter(|(_, (_, height))| height.is_finite());
        let bars = bars.map(|(index, (_, height))| {
            let corners = [(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), *height)];
            let mut bar = Rectangle::new(corners, COLOURS[index % COLOURS.len()].mix(0.8).filled());
            bar.set_margin(0, 0, 12, 12);
            bar
        });
        chart.draw_series(bars).map_err(|error| told(&error))?;
        root.present().map_err(|error| told(&error))
    }
}

/// A number as short as an axis needs it.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        size if size >= 1e4 => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The latency of a run over its time.
pub fn of_report(report: &Report) -> Plot {
    let curve = |name: &str, y: fn(&crate::report::Point) -> f64| Curve {
        name: name.to_owned(),
        points: report.series.iter().map(|point| (point.second as f64, y(point))).collect(),
    };
    Plot {
        title: format!("{}: {:.0} answers/s", report.url, report.throughput_per_second),
        x: "second".to_owned(),
        y: "latency (ms)".to_owned(),
        log_x: false,
        log_y: true,
        curves: vec![curve("p50", |point| point.p50_ms), curve("p99", |point| point.p99_ms)],
    }
}

/// The 99th percentile of the rates that a search tried.
pub fn of_search(search: &Search) -> Plot {
    let mut rounds: Vec<&Round> = search.rounds.iter().collect();
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let curve = |name: &str, y: fn(&Latency) -> f64| Curve {
        name: name.to_owned(),
        points: rounds
            .iter()
            .filter_map(|round| Some((round.rate, y(round.report.latency_ms.as_ref()?))))
            .collect(),
    };
    Plot {
        title: format!("highest rate: {:.0}/s", search.highest_rate.unwrap_or_default()),
        x: "offered requests/s".to_owned(),
        y: "latency (ms)".to_owned(),
        log_x: true,
        log_y: true,
        curves: vec![curve("p50", |latency| latency.p50), curve("p99", |latency| latency.p99)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_svg_with_its_words_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for log in [false, true] {
            let plot = Plot {
                title: "a title".to_owned(),
                x: "rate".to_owned(),
                y: "latency".to_owned(),
                log_x: log,
                log_y: log,
                curves: vec![Curve { name: "a curve".to_owned(), points: vec![(1.0, 2.0), (10.0, 0.5)] }],
            };
            plot.write(file.path()).unwrap();
            let svg = std::fs::read_to_string(file.path()).unwrap();
            for words in ["<svg", "a title", "rate", "latency", "a curve", "</svg>"] {
                assert!(svg.contains(words), "{words}");
            }
        }
    }

    #[test]
    fn bars_are_svg_with_their_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bars = Bars {
            title: "a title".to_owned(),
            y: "rate".to_owned(),
            bars: vec![("first".to_owned(), 2.0), ("second".to_owned(), 3.0)],
        };
        bars.write(file.path()).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        assert!(["a title", "rate", "first", "second"].iter().all(|words| svg.contains(words)));
    }

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!([0.5, 12.0, 25_000.0, 1.5e6].map(number), ["0.5", "12", "25k", "1.5M"]);
    }
}

//! How a table and a plot tell of something that grows, measured in turns with the bare server.

use clipper_benchmarks::report::plot::{Curve, Plot};

use crate::cell::{ms, rate, times};
use crate::section::{Rounds, Section};

/// Tells of steps: what has grown how far, and the rounds of the bare server and of Clipper.
pub fn tell(
    section: &mut Section,
    file: &str,
    what: &str,
    steps: &[(f64, Vec<Rounds>)],
) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|(step, rounds)| {
            let (bare, clipper) = (&rounds[0], &rounds[1]);
            vec![
                rate(*step),
                rate(bare.throughput()),
                rate(clipper.throughput()),
                times(clipper.to(bare)),
                ms(bare.p50()),
                ms(clipper.p50()),
                ms(clipper.p99()),
            ]
        })
        .collect();
    section.table(&[what, "bare, answers/s", "Clipper", "ratio", "bare, p50", "Clipper, p50", "p99"], &rows);
    let curve = |index: usize, name: &str| Curve {
        name: name.to_owned(),
        points: steps.iter().map(|(step, rounds)| (*step, rounds[index].throughput())).collect(),
    };
    let plot = Plot {
        title: format!("Answers/s by {what}"),
        x: what.to_owned(),
        y: "answers/s".to_owned(),
        log_x: true,
        log_y: true,
        curves: vec![curve(0, "bare"), curve(1, "Clipper")],
    };
    section.plot(file, &plot)
}

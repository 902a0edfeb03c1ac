//! How long a model computes, by the size of the batch, as its answers have shown.
//!
//! Owned by a [`Controller`](super::Controller), which asks it both ways: how long a size takes, and which size fits a time.
//! Sizes are gathered in half octaves, each remembered by its mean size and a robust mean of its time; between them the
//! curve is straight, so it follows steps as well as lines. Invariant: a larger batch never takes less time.

use super::seconds::{log_ratio, scaled};

/// The weight of a new time once a few are known: a model that has changed is known again after some ten batches.
const GAIN: f64 = 0.2;

/// How much of what was learned of one size holds for the others too: a slower machine is slower at every size.
const SHARED: f64 = 0.5;

/// The largest logarithmic surprise that is believed at once; a pause of the garbage collector is larger (Huber's clipping).
const CLIP: f64 = 0.4;

/// Nobody is as slow by chance this many times in a row: then a surprise is believed whatever its size.
const CONVINCING: u32 = 3;

/// What remains of a size's weight after each batch of another size.
const FADING: f64 = 0.98;

/// How many batches that would have been larger, had the curve allowed it, until what keeps them small is tried again; for each visit
/// to those larger sizes, of which [`STUBBORN`] count.
const RETRY_AFTER: u32 = 50;

/// See [`RETRY_AFTER`].
const STUBBORN: u32 = 8;

/// Time of computation as a function of the size of the batch.
#[derive(Debug)]
pub(super) struct Curve {
    /// One for each half octave of sizes.
    knots: Vec<Knot>,
    /// The known knots, made monotone: the curve itself.
    points: Vec<Point>,
    /// Room to pool in.
    blocks: Vec<Block>,
    /// How many batches in a row were slower than [`CLIP`] believes.
    slow_in_a_row: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Knot {
    /// The mean size that was seen.
    size: f64,
    /// The mean time, in seconds.
    seconds: f64,
    /// The number of visits, fading; decides who yields where knots contradict each other.
    weight: f64,
    /// 0: nothing is known.
    visits: u32,
    /// Batches since the last visit that stayed below this size because of the curve.
    avoided: u32,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    size: f64,
    seconds: f64,
}

/// Neighbouring knots that contradict the monotony, and so share one time.
#[derive(Debug, Clone, Copy)]
struct Block {
    seconds: f64,
    weight: f64,
    length: usize,
}

impl Curve {
    /// A curve of which nothing is known, for batches of up to `max_size`.
    pub(super) fn new(max_size: usize) -> Self {
        let length = bucket(max_size) + 1;
        Self {
            knots: vec![Knot::default(); length],
            points: Vec::with_capacity(length),
            blocks: Vec::with_capacity(length),
            slow_in_a_row: 0,
        }
    }

    /// Learns that a batch took that long. `pressed`: whether it would have been larger, had the curve allowed it.
    pub(super) fn observe(&mut self, size: usize, seconds: f64, pressed: bool) {
        let bucket = bucket(size).min(self.knots.len() - 1);
        let error = if self.points.is_empty() { 0.0 } else { log_ratio(seconds, self.seconds(size)) };
        self.slow_in_a_row = if error > CLIP { self.slow_in_a_row.saturating_add(1) } else { 0 };
        // Only delays are doubted: that a model was fast proves that it can be.
        let error = if self.slow_in_a_row < CONVINCING { error.min(CLIP) } else { error };

        let mut knot = self.knots[bucket];
        knot.weight += 1.0;
        if knot.visits == 0 {
            knot.size = size as f64;
            knot.seconds = seconds;
        } else {
            let gain = GAIN.max(1.0 / knot.weight);
            knot.size += gain * (size as f64 - knot.size);
            knot.seconds = scaled(self.interpolated(knot.size), gain * error);
            let drift = SHARED * GAIN * error;
            self.knots.iter_mut().for_each(|other| other.seconds = scaled(other.seconds, drift));
        }
        knot.visits = knot.visits.saturating_add(1);
        knot.avoided = 0;
        self.knots.iter_mut().for_each(|other| other.weight *= FADING);
        self.knots[bucket] = knot;
        if pressed {
            self.knots[bucket + 1..].iter_mut().for_each(Knot::avoid);
        }
        self.connect();
    }

    /// The expected time for a batch of `size`, in seconds; 0 if nothing is known.
    pub(super) fn seconds(&self, size: usize) -> f64 {
        self.interpolated(size as f64)
    }

    /// The largest size that is expected to take at most `seconds`, and that is not beyond [`Self::reach`].
    pub(super) fn within(&self, seconds: f64) -> usize {
        let above = self.points.partition_point(|point| point.seconds <= seconds);
        let size = match (above.checked_sub(1).map(|below| self.points[below]), self.points.get(above)) {
            (None, None) => return self.reach(),
            (None, Some(_)) => 0.0,
            (Some(below), Some(above)) => {
                let share = (seconds - below.seconds) / (above.seconds - below.seconds);
                below.size + share * (above.size - below.size)
            }
            (Some(last), None) => match self.slope() {
                slope if slope > 0.0 => last.size + (seconds - last.seconds) / slope,
                _ => f64::INFINITY,
            },
        };
        // A mean size of 63.9999 stands for 64.
        ((size + 1e-6) as usize).min(self.reach())
    }

    /// How far the curve is believed: up to twice the largest size that was seen.
    pub(super) fn reach(&self) -> usize {
        self.points.last().map_or(1, |last| last.size.ceil() as usize * 2)
    }

    /// The cost of one more input, in seconds: the slope of the chord from the smallest to the largest known size.
    pub(super) fn slope(&self) -> f64 {
        match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) if last.size > first.size => {
                (last.seconds - first.seconds) / (last.size - first.size)
            }
            // Unknown is taken for nothing, or no second size would ever be tried.
            _ => 0.0,
        }
    }

    /// The cost of a batch before its first input, in seconds: where that chord begins.
    pub(super) fn intercept(&self) -> f64 {
        self.points.first().map_or(0.0, |first| (first.seconds - self.slope() * first.size).max(0.0))
    }

    fn interpolated(&self, size: f64) -> f64 {
        let above = self.points.partition_point(|point| point.size < size);
        match (above.checked_sub(1).map(|below| self.points[below]), self.points.get(above)) {
            (None, None) => 0.0,
            (None, Some(first)) => first.seconds,
            (Some(last), None) => last.seconds + self.slope() * (size - last.size),
            (Some(below), Some(above)) => {
                let share = (size - below.size) / (above.size - below.size);
                below.seconds + share * (above.seconds - below.seconds)
            }
        }
    }

    /// Draws the curve through the knots: the closest monotone one, by pooling adjacent violators (Ayer et al., 1955, "An empirical
    /// distribution function for sampling with incomplete information").
    fn connect(&mut self) {
        self.points.clear();
        self.blocks.clear();
        for knot in self.knots.iter().filter(|knot| knot.visits > 0) {
            self.points.push(Point { size: knot.size, seconds: knot.seconds });
            let mut block = Block { seconds: knot.seconds, weight: knot.weight.max(1e-6), length: 1 };
            while let Some(before) = self.blocks.pop_if(|before| before.seconds > block.seconds) {
                let weight = before.weight + block.weight;
                block.seconds = (before.seconds * before.weight + block.seconds * block.weight) / weight;
                block.weight = weight;
                block.length += before.length;
            }
            self.blocks.push(block);
        }
        let mut points = self.points.iter_mut();
        for block in &self.blocks {
            points.by_ref().take(block.length).for_each(|point| point.seconds = block.seconds);
        }
    }
}

impl Knot {
    /// Forgets a time that has long kept the batches small: it may have been chance, or be over.
    fn avoid(&mut self) {
        self.avoided += 1;
        if self.avoided > RETRY_AFTER * self.visits.min(STUBBORN) {
            *self = Self::default();
        }
    }
}

/// The half octave that a size is in: 1, 2, 3, 4, 5 to 6, 7 to 8, 9 to 12, 13 to 16 and so on. Powers of two end one, as steps do.
fn bucket(size: usize) -> usize {
    let Some(octave) = size.saturating_sub(1).checked_ilog2() else { return 0 };
    let upper_half = octave > 0 && (size - 1) >> (octave - 1) & 1 == 1;
    2 * octave as usize + 1 + usize::from(upper_half)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(sizes: &[usize], seconds: impl Fn(usize) -> f64) -> Curve {
        let mut curve = Curve::new(1024);
        for _ in 0..20 {
            sizes.iter().for_each(|&size| curve.observe(size, seconds(size), false));
        }
        curve
    }

    #[test]
    fn powers_of_two_end_a_bucket() {
        let buckets: Vec<_> = (1..=17).map(bucket).collect();
        assert_eq!(buckets, [0, 1, 3, 4, 5, 5, 6, 6, 7, 7, 7, 7, 8, 8, 8, 8, 9]);
    }

    #[test]
    fn a_line_is_found_between_and_beyond_what_was_seen() {
        let line = |size: usize| 0.02 + 0.0002 * size as f64;
        let curve = learned(&[1, 10, 60, 100], line);
        for size in [1, 5, 33, 64, 100, 200] {
            assert!((curve.seconds(size) - line(size)).abs() < 0.0005, "{size}: {}", curve.seconds(size));
        }
        assert!(curve.within(line(80)).abs_diff(80) <= 1);
        assert!((curve.intercept() - 0.02).abs() < 0.0005);
    }

    #[test]
    fn a_step_is_kept_to_where_it_is() {
        let step = |size: usize| 0.001 * size.next_power_of_two() as f64;
        let curve = learned(&[1, 2, 4, 8, 16, 32, 60, 64, 65, 90], step);
        assert!(curve.within(0.070) >= 58, "{}", curve.within(0.070));
        assert!(curve.within(0.070) <= 66, "{}", curve.within(0.070));
    }

    #[test]
    fn nothing_is_believed_far_beyond_what_was_seen() {
        let mut curve = Curve::new(1024);
        assert_eq!(curve.within(f64::MAX), 1);
        curve.observe(1, 0.01, true);
        assert_eq!(curve.within(f64::MAX), 2);
        curve.observe(2, 0.01, true);
        assert_eq!(curve.within(f64::MAX), 4);
    }

    #[test]
    fn one_pause_moves_the_curve_little_and_three_slow_batches_in_a_row_much() {
        let mut curve = learned(&[1, 64], |_| 0.02);
        curve.observe(64, 0.12, false);
        assert!(curve.seconds(64) < 0.0225);
        for _ in 0..12 {
            curve.observe(64, 0.12, false);
        }
        assert!(curve.seconds(64) > 0.1);
        assert!(curve.seconds(1) > 0.03, "what it costs at one size says something of the others");
    }

    #[test]
    fn what_keeps_batches_small_is_tried_again() {
        let mut curve = learned(&[1, 2], |_| 0.02);
        curve.observe(4, 5.0, true);
        assert!(curve.within(0.1) < 4);
        for _ in 0..=RETRY_AFTER {
            curve.observe(2, 0.02, true);
        }
        assert_eq!(curve.within(0.1), 4);
    }
}

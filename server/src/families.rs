//! Writes families of metrics: for each its description, then a sample for each set of labels.
//!
//! For collectors, whose numbers are kept elsewhere and read at the scrape. Names are given without the unit, which is
//! appended; those of counters without `_total`, too.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// Where the families of one collector go.
pub struct Families<'a>(DescriptorEncoder<'a>);

/// What a histogram holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets {
    /// The sum of all values.
    pub sum: f64,
    /// The upper bound of each bucket, the last of them infinite, and how many values are in it and in no lower one.
    pub counts: Vec<(f64, u64)>,
}

impl<'a> Families<'a> {
    /// Writes to a collector's encoder.
    pub fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// A family of counters.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn counter<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (L, impl EncodeCounterValue)>,
    ) -> fmt::Result {
        self.family((name, help, unit, MetricType::Counter), samples, |mut sample, value| {
            sample.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    /// A family of gauges.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (L, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        self.family((name, help, unit, MetricType::Gauge), samples, |mut sample, value| {
            sample.encode_gauge(&value)
        })
    }

    /// A family of histograms.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn histogram<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: impl IntoIterator<Item = (L, Buckets)>,
    ) -> fmt::Result {
        self.family(
            (name, help, unit, MetricType::Histogram),
            samples,
            |mut sample, Buckets { sum, counts }| {
                let count = counts.iter().map(|(_, count)| count).sum();
                sample.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
            },
        )
    }

    /// A counter of which there is one.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn lone_counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeCounterValue + Copy,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// A gauge of which there is one.
    ///
    /// # Errors
    /// If the text cannot be written.
    pub fn lone_gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue + Copy,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn family<L: EncodeLabelSet, V>(
        &mut self,
        (name, help, unit, kind): (&str, &str, Option<&Unit>, MetricType),
        samples: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in samples {
            write(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

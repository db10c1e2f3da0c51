//! How families and their series are encoded.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

use crate::engine::verdicts::{BUCKETS_US, Histogram};

/// Indices of targets or nodes.
pub(super) type Range = std::ops::Range<usize>;

pub(super) fn gauge<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

pub(super) fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

pub(super) fn put_gauge(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(value)
}

pub(super) fn put_counter_alone(
    family: &mut MetricEncoder<'_>,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    family.encode_counter(value, None::<&Exemplar<[(&str, &str); 0], f64>>)
}

pub(super) fn put_counter(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    put_counter_alone(&mut family.encode_family(labels)?, value)
}

pub(super) fn put_histogram(family: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let bounds = BUCKETS_US.iter().map(|&us| us as f64 / 1e6);
    let buckets: Vec<(f64, u64)> = bounds
        .chain([f64::INFINITY])
        .zip(histogram.counts)
        .collect();
    family.encode_histogram(
        histogram.sum.as_secs_f64(),
        histogram.counts.iter().copied().fold(0, u64::wrapping_add),
        &buckets,
        None::<&std::collections::HashMap<usize, Exemplar<[(&str, &str); 0], f64>>>,
    )
}

//! The macro execution: what the arrays compute, access by access.
//!
//! For each output pixel and access:
//!
//! * gather the inputs of the mapped groups; groups that aren't mapped have no influence on the result,
//! * form one partial sum for each output, weight slice and input phase,
//! * check that it is within what the weights can give,
//! * add its noise and convert it,
//! * add it to the accumulator: `acc += adc(sum of x * w + noise) << (slice + phase)`.
//!
//! Bias, residual sum and requantization are those of [`integer`](crate::integer), whose reference execution it never calls.

use rayon::prelude::*;

use super::accesses::Counters;
use super::conv::ArrayConv;
use super::partial_sums::{Histogram, PartialSumsOfNetwork};
use super::pooling::{max_pool, sum_pool};
use crate::error::{Error, Result};
use crate::hardware::chip::{Converter, Hardware};
use crate::hardware::mapping::ConvMapping;
use crate::integer::{Codes, Form, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, Requantize, multiplier};
use crate::network::{Conv, MapShape, Op, PoolShape, SameScale, Skip, Source, parallel_images};
use crate::simd::{IntegerKernel, IntegerSimd, dispatch_integers};

/// An integer network mapped to a chip, ready to compute.
#[derive(Debug)]
pub struct MacroNetwork {
    image: MapShape,
    classes: usize,
    steps: Vec<Step>,
    /// Values of each stored form, the image first.
    slots: Vec<usize>,
    converter: Converter,
}

/// Images after which [`MacroNetwork::partial_sums`] tells how far it is.
const COUNTED_IMAGES: usize = 32;

/// Logits and counters of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// `[image][class]`.
    pub logits: Vec<i32>,
    /// What the array did.
    pub counters: Counters,
}

#[derive(Debug)]
enum Step {
    Conv(Box<ConvStep>),
    MaxPool {
        pool: PoolShape,
        /// Slots of each form, read and written.
        slots: Vec<(usize, usize)>,
    },
    Concat {
        output: MapShape,
        /// For each form the slots and channels of what it joins, and the slot that is written.
        forms: Vec<(Vec<(usize, usize)>, usize)>,
    },
    AvgPool {
        pool: PoolShape,
        slot: usize,
        zero_point: i64,
        multiplier: i64,
        forms: Vec<(Form, usize)>,
    },
}

/// A convolution with what follows it.
#[derive(Debug)]
struct ConvStep {
    conv: ArrayConv,
    /// Slot of the input.
    input: usize,
    join: Option<Join>,
    /// Nothing for the last layer, whose sums are the logits.
    requantize: Option<Finish>,
}

/// What joins a sum before it is requantized.
#[derive(Debug)]
enum Join {
    Identity { slot: usize, zero_point: i64, from: MapShape, stride: usize, pad_front: usize, multiplier: i64 },
    Projection { conv: Box<ArrayConv>, input: usize, multipliers: Vec<i64> },
}

/// Requantization: a multiplier for each filter, and the slot of each form.
#[derive(Debug)]
struct Finish {
    multipliers: Vec<i64>,
    forms: Vec<(Form, usize)>,
}

impl MacroNetwork {
    /// Maps a network to a chip.
    ///
    /// # Errors
    /// A network or chip that isn't valid, weights wider than the macro's, a converter whose sums can exceed 32 bits.
    pub fn new(network: &IntegerNetwork, hardware: &Hardware) -> Result<Self> {
        hardware.validate()?;
        network.validate()?;
        let image = network.graph.image();
        let mut slots = vec![image.len()];
        let mut first_slots = Vec::new();
        for (index, node) in network.graph.nodes().iter().enumerate() {
            first_slots.push(slots.len());
            slots.extend(network.forms(Source::Node(index)).iter().map(|_| node.output.len()));
        }
        let plan = Plan { network, hardware, first_slots };
        let steps = (0..network.layers.len()).map(|index| plan.step(index)).collect::<Result<_>>()?;
        Ok(Self { image, classes: network.graph.spec().classes, steps, slots, converter: hardware.converter })
    }

    /// Logits `[image][class]` of a data set's first images, `[image][channel][height][width]`.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn logits(&self, images: &[u8]) -> Result<Vec<i32>> {
        Ok(self.run(0, images)?.logits)
    }

    /// Computes images `[image][channel][height][width]`, several at a time; the result doesn't depend on how many.
    ///
    /// `first` is the place of the first one in its data set, from which noise follows; without noise it has no influence.
    ///
    /// # Errors
    /// Bytes that aren't whole images; a partial sum out of range, which names layer and access.
    pub fn run(&self, first: usize, images: &[u8]) -> Result<Execution> {
        self.check_images(images)?;
        let mut logits = vec![0; images.len() / self.image.len() * self.classes];
        let counters: Vec<Result<Counters>> = images
            .par_chunks_exact(self.image.len())
            .zip(logits.par_chunks_exact_mut(self.classes))
            .enumerate()
            .with_min_len((images.len() / self.image.len()).div_ceil(self.parallel_images()))
            .map_init(
                || Scratch::new(self, false),
                |scratch, (index, (image, logits))| self.image((first + index) as u64, image, logits, scratch),
            )
            .collect();
        let counters = counters.into_iter().try_fold(Counters::default(), |sum, counters| {
            let counters = counters?;
            Ok::<_, Error>(Counters {
                accesses: sum.accesses + counters.accesses,
                conversions: sum.conversions + counters.conversions,
                group_pixels: sum.group_pixels + counters.group_pixels,
            })
        })?;
        Ok(Execution { logits, counters })
    }

    /// What becomes of image `[channel][height][width]` of this place in its data set.
    ///
    /// # Errors
    /// Bytes that aren't one image; a partial sum out of range, which names layer and access.
    pub fn codes(&self, place: usize, image: &[u8]) -> Result<Codes> {
        if image.len() != self.image.len() {
            let message = format!("{} bytes are not an image of {} bytes", image.len(), self.image.len());
            return Err(Error::Setting(message));
        }
        let (mut scratch, mut logits) = (Scratch::new(self, false), vec![0; self.classes]);
        self.image(place as u64, image, &mut logits, &mut scratch)?;
        // The image lies before what is made of it.
        scratch.values.remove(0);
        Ok(Codes { stored: scratch.values, logits })
    }

    /// Images that may be computed at a time; each has all its forms and input planes, and the sums of one layer.
    fn parallel_images(&self) -> usize {
        let convs = || self.convs().flat_map(OfConvs::into_each).flatten();
        let planes: usize = convs().map(ArrayConv::planes_len).sum();
        let sums = convs().map(|conv| 2 * size_of::<i32>() * conv.shape.output.len()).max().unwrap_or(0);
        parallel_images(self.slots.iter().sum::<usize>() + planes + sums)
    }

    fn check_images(&self, images: &[u8]) -> Result<()> {
        match images.len().is_multiple_of(self.image.len()) {
            true => Ok(()),
            false => Err(Error::Setting(format!(
                "{} bytes are not whole images of {} bytes",
                images.len(),
                self.image.len()
            ))),
        }
    }

    /// How partial sums are distributed over images `[image][channel][height][width]`; `advance` is told how many images are done.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn partial_sums(&self, images: &[u8], advance: impl Fn(usize)) -> Result<PartialSumsOfNetwork> {
        self.check_images(images)?;
        let image = self.image.len();
        // A thread has histograms of its own for all its images.
        let threads = rayon::current_num_threads().min(self.parallel_images());
        let mut scratches: Vec<Scratch> = (0..threads).map(|_| Scratch::new(self, true)).collect();
        let mut done = 0;
        for batch in images.chunks(COUNTED_IMAGES * image) {
            let of_thread = (batch.len() / image).div_ceil(threads);
            let threads = scratches.par_iter_mut().zip(batch.par_chunks(of_thread * image)).enumerate();
            threads.try_for_each(|(thread, (scratch, images))| {
                let mut logits = vec![0; self.classes];
                let first = done + thread * of_thread;
                (first..)
                    .zip(images.chunks_exact(image))
                    .try_for_each(|(number, image)| self.image(number as u64, image, &mut logits, scratch).map(drop))
            })?;
            done += batch.len() / image;
            advance(done);
        }
        let sums = self.histograms();
        for scratch in &scratches {
            let pairs = sums.iter().flat_map(OfConvs::each).zip(scratch.histograms.iter().flat_map(OfConvs::each));
            pairs.for_each(|(all, more)| all.iter().zip(more).for_each(|(all, more)| all.add(more)));
        }
        let convs: Vec<_> = self.convs().collect();
        let convs = convs.iter().flat_map(OfConvs::each).zip(sums.into_iter().flat_map(OfConvs::into_each));
        let named: Vec<_> = convs.filter_map(|(conv, histograms)| Some(((*conv)?.name.as_str(), histograms))).collect();
        Ok(PartialSumsOfNetwork::new(&named, self.converter))
    }

    /// The convolutions of each step.
    fn convs(&self) -> impl Iterator<Item = OfConvs<Option<&ArrayConv>>> {
        self.steps.iter().map(|step| match step {
            Step::Conv(step) => match &step.join {
                Some(Join::Projection { conv, .. }) => OfConvs { own: Some(&step.conv), projection: Some(&**conv) },
                Some(Join::Identity { .. }) | None => OfConvs { own: Some(&step.conv), projection: None },
            },
            Step::MaxPool { .. } | Step::Concat { .. } | Step::AvgPool { .. } => {
                OfConvs { own: None, projection: None }
            }
        })
    }

    /// What `of` makes of each step's convolutions; an empty list where there is none.
    fn of_convs<T>(&self, of: impl Fn(&ArrayConv) -> Vec<T>) -> Vec<OfConvs<Vec<T>>> {
        let of = |conv: Option<&ArrayConv>| conv.map_or_else(Vec::new, &of);
        self.convs().map(|OfConvs { own, projection }| OfConvs { own: of(own), projection: of(projection) }).collect()
    }

    /// Histograms of each step's convolutions.
    fn histograms(&self) -> Vec<OfConvs<Vec<Histogram>>> {
        self.of_convs(ArrayConv::histograms)
    }

    /// Computes image `number` of its data set.
    fn image(&self, number: u64, image: &[u8], logits: &mut [i32], scratch: &mut Scratch) -> Result<Counters> {
        let mut counters = Counters::default();
        let channels = self.image.channels;
        for (channel, plane) in image.chunks_exact(self.image.pixels()).enumerate() {
            for (pixel, value) in plane.iter().enumerate() {
                scratch.values[0][pixel * channels + channel] = *value;
            }
        }
        for (index, step) in self.steps.iter().enumerate() {
            let values = &mut scratch.values;
            match step {
                Step::Conv(step) => {
                    let OfConvs { own, projection } = &mut scratch.planes[index];
                    let histograms = scratch.histograms.get(index);
                    let counted = histograms.map(|histograms| &*histograms.own);
                    step.conv.run(number, &values[step.input], own, &mut scratch.sums, &mut counters, counted)?;
                    if let Some(Join::Projection { conv, input, .. }) = &step.join {
                        let counted = histograms.map(|histograms| &*histograms.projection);
                        conv.run(number, &values[*input], projection, &mut scratch.joined, &mut counters, counted)?;
                    }
                    if let Some(finish) = &step.requantize {
                        step.requantize(finish, scratch);
                    } else {
                        let sums = scratch.sums.iter().zip(&step.conv.bias);
                        logits.iter_mut().zip(sums).for_each(|(logit, (sum, bias))| *logit = sum + bias);
                    }
                }
                Step::MaxPool { pool, slots } => {
                    for &(from, to) in slots {
                        let mut pooled = std::mem::take(&mut values[to]);
                        max_pool(&values[from], *pool, &mut pooled);
                        values[to] = pooled;
                    }
                }
                Step::Concat { output, forms } => {
                    for (parts, to) in forms {
                        let mut joined = std::mem::take(&mut values[*to]);
                        concatenate(parts, values, output.channels, &mut joined);
                        values[*to] = joined;
                    }
                }
                Step::AvgPool { pool, slot, zero_point, multiplier, forms } => {
                    let sums = &mut scratch.row[..pool.output.len()];
                    sum_pool(&values[*slot], *zero_point, *pool, sums);
                    for (form, slot) in forms {
                        for (value, sum) in values[*slot].iter_mut().zip(&*sums) {
                            *value = form.apply(sum * multiplier);
                        }
                    }
                }
            }
        }
        Ok(counters)
    }
}

impl ConvStep {
    /// Writes the forms of the sums that were computed last.
    fn requantize(&self, finish: &Finish, scratch: &mut Scratch) {
        let Scratch { values, sums, joined, row, .. } = scratch;
        let slots = || finish.forms.iter().map(|(_, slot)| *slot);
        let mut outputs: Vec<_> = slots().map(|slot| std::mem::take(&mut values[slot])).collect();
        dispatch_integers(Requantization {
            conv: &self.conv,
            finish,
            sums,
            join: self.join.as_ref(),
            joined,
            values,
            row,
            outputs: &mut outputs,
        });
        slots().zip(outputs).for_each(|(slot, output)| values[slot] = output);
    }
}

/// Places the channels of some slots, `(slot, channels)`, behind each other.
fn concatenate(parts: &[(usize, usize)], values: &[Vec<u8>], channels: usize, joined: &mut [u8]) {
    let mut first = 0;
    for &(slot, own) in parts {
        for (pixel, codes) in joined.chunks_exact_mut(channels).zip(values[slot].chunks_exact(own)) {
            pixel[first..first + own].copy_from_slice(codes);
        }
        first += own;
    }
}

/// Something of a step's own convolution and of the projection that joins it.
struct OfConvs<T> {
    own: T,
    projection: T,
}

impl<T> OfConvs<T> {
    fn each(&self) -> [&T; 2] {
        [&self.own, &self.projection]
    }

    fn into_each(self) -> [T; 2] {
        [self.own, self.projection]
    }
}

/// A thread's buffers.
struct Scratch {
    values: Vec<Vec<u8>>,
    /// Input planes of each step's convolutions, borders in place.
    planes: Vec<OfConvs<Vec<u8>>>,
    sums: Vec<i32>,
    joined: Vec<i32>,
    row: Vec<i64>,
    /// [`MacroNetwork::histograms`]; empty where nothing is counted.
    histograms: Vec<OfConvs<Vec<Histogram>>>,
}

impl Scratch {
    fn new(network: &MacroNetwork, counts: bool) -> Self {
        let rows = network.steps.iter().map(|step| match step {
            Step::Conv(step) => step.conv.shape.filters(),
            Step::AvgPool { pool, .. } => pool.output.len(),
            Step::MaxPool { .. } | Step::Concat { .. } => 0,
        });
        Self {
            values: network.slots.iter().map(|len| vec![0; *len]).collect(),
            planes: network.of_convs(ArrayConv::empty_planes),
            sums: Vec::new(),
            joined: Vec::new(),
            row: vec![0; rows.max().unwrap_or(0)],
            histograms: if counts { network.histograms() } else { Vec::new() },
        }
    }
}

/// Turns nodes into steps.
struct Plan<'a> {
    network: &'a IntegerNetwork,
    hardware: &'a Hardware,
    /// The slot of each node's first form.
    first_slots: Vec<usize>,
}

impl Plan<'_> {
    fn slot(&self, source: Source, bits: u8) -> usize {
        let Source::Node(index) = source else { return 0 };
        let form = self.network.forms(source).iter().position(|form| *form == bits);
        self.first_slots[index] + form.expect("a valid network reads forms that exist")
    }

    /// The code that means 0 in a form that a pooling layer or a residual sum reads.
    fn zero_point(&self, source: Source, bits: u8) -> i64 {
        match source {
            Source::Image => unreachable!("only convolutions read the image"),
            Source::Node(index) => self.network.zero_point(index, bits).into(),
        }
    }

    fn step(&self, index: usize) -> Result<Step> {
        let node = &self.network.graph.nodes()[index];
        let stored = |output: &Requantize| {
            let slots = self.first_slots[index]..;
            output.forms.iter().copied().zip(slots).collect()
        };
        let pool = |window| PoolShape { input: node.input, output: node.output, window };
        Ok(match (node.op, &self.network.layers[index]) {
            (Op::Conv { conv: shape, skip, .. }, IntegerLayer::Conv { conv, skip: integer_skip, output }) => {
                let [own, projection] = self.network.graph.node_convs(index);
                Step::Conv(Box::new(ConvStep {
                    conv: self.conv(&own.expect("the node's own convolution"), conv)?,
                    input: self.slot(node.source, conv.input_bits),
                    join: skip
                        .zip(integer_skip.as_ref())
                        .map(|(skip, integer)| self.join(skip, projection.as_ref(), integer))
                        .transpose()?,
                    requantize: output.as_ref().map(|output| Finish {
                        multipliers: (0..shape.filters()).map(|filter| output.multiplier(filter).into()).collect(),
                        forms: stored(output),
                    }),
                }))
            }
            (Op::SameScale(kind), IntegerLayer::SameScale) => match kind {
                SameScale::MaxPool { window } => Step::MaxPool {
                    pool: pool(window),
                    slots: (self.network.forms(node.source).iter())
                        .map(|bits| (self.slot(node.source, *bits), self.slot(Source::Node(index), *bits)))
                        .collect(),
                },
                SameScale::Concat => Step::Concat {
                    output: node.output,
                    forms: (self.network.forms(Source::Node(index)).into_iter())
                        .map(|bits| {
                            let part = |source| (self.slot(source, bits), self.network.graph.shape(source).channels);
                            (node.sources().map(part).collect(), self.slot(Source::Node(index), bits))
                        })
                        .collect(),
                },
            },
            (Op::AvgPool { window }, IntegerLayer::AvgPool { input_bits, output }) => Step::AvgPool {
                pool: pool(window),
                slot: self.slot(node.source, *input_bits),
                zero_point: self.zero_point(node.source, *input_bits),
                multiplier: output.multiplier(0).into(),
                forms: stored(output),
            },
            (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => {
                unreachable!("a valid network has one layer of the right kind for each node")
            }
        })
    }

    fn join(&self, skip: Skip, projection: Option<&Conv>, integer: &IntegerSkip) -> Result<Join> {
        Ok(match (skip, projection, integer) {
            (Skip::Identity { source, stride, pad_front }, _, IntegerSkip::Identity { bits, multiplier }) => {
                Join::Identity {
                    slot: self.slot(source, *bits),
                    zero_point: self.zero_point(source, *bits),
                    from: self.network.graph.shape(source),
                    stride,
                    pad_front,
                    multiplier: (*multiplier).into(),
                }
            }
            (Skip::Projection { .. }, Some(conv), IntegerSkip::Projection { conv: integer, multipliers }) => {
                Join::Projection {
                    conv: Box::new(self.conv(conv, integer)?),
                    input: self.slot(conv.source, integer.input_bits),
                    multipliers: (0..conv.shape.filters())
                        .map(|filter| multiplier(multipliers, filter).into())
                        .collect(),
                }
            }
            (Skip::Identity { .. } | Skip::Projection { .. }, _, _) => {
                unreachable!("a valid network has the residuals of its graph")
            }
        })
    }

    fn conv(&self, conv: &Conv, integer: &IntegerConv) -> Result<ArrayConv> {
        let mapping = ConvMapping::new(&conv.name, conv.shape, integer, self.hardware)?;
        let padding_values = self.network.padding_values(conv.source, integer.input_bits);
        ArrayConv::new(conv.id, &mapping, integer, padding_values, self.hardware)
    }
}

struct Requantization<'a> {
    conv: &'a ArrayConv,
    finish: &'a Finish,
    sums: &'a [i32],
    join: Option<&'a Join>,
    /// Accumulators of the projection, where there is one.
    joined: &'a [i32],
    values: &'a [Vec<u8>],
    row: &'a mut [i64],
    outputs: &'a mut [Vec<u8>],
}

impl IntegerKernel for Requantization<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: IntegerSimd>(self, _: S) {
        let MapShape { channels, width, .. } = self.conv.shape.output;
        let row = &mut self.row[..channels];
        for pixel in 0..self.conv.shape.output.pixels() {
            let products = self.conv.biased(self.sums, pixel).zip(&self.finish.multipliers);
            for (value, (sum, multiplier)) in row.iter_mut().zip(products) {
                *value = sum * multiplier;
            }
            match self.join {
                None => {}
                Some(Join::Identity { slot, zero_point, from, stride, pad_front, multiplier }) => {
                    let source = pixel / width * stride * from.width + pixel % width * stride;
                    let skip = &self.values[*slot][source * from.channels..][..from.channels];
                    for (value, skip) in row[*pad_front..].iter_mut().zip(skip) {
                        *value += (i64::from(*skip) - zero_point) * multiplier;
                    }
                }
                Some(Join::Projection { conv, multipliers, .. }) => {
                    for (value, (sum, multiplier)) in
                        row.iter_mut().zip(conv.biased(self.joined, pixel).zip(multipliers))
                    {
                        *value += sum * multiplier;
                    }
                }
            }
            for ((form, _), output) in self.finish.forms.iter().zip(&mut *self.outputs) {
                for (stored, value) in output[pixel * channels..][..channels].iter_mut().zip(&*row) {
                    *stored = form.apply(*value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupShape;
    use crate::integer::{QuantizeConfig, outline};
    use crate::network::{Graph, zoo};

    #[test]
    fn wide_groups_leave_room_for_fewer_images_at_a_time() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let mut at_a_time = Vec::new();
        for channels in [16, 4096] {
            let group = GroupShape { filters: 16, channels };
            let hardware = Hardware { group, rows: channels, rows_on: channels, ..Hardware::mars() };
            let network = MacroNetwork::new(&outline(&graph, &QuantizeConfig::default(), group), &hardware).unwrap();
            let scratch = Scratch::new(&network, false);
            let planes = scratch.planes.iter().flat_map(OfConvs::each).map(Vec::len).sum::<usize>();
            let bytes = scratch.values.iter().map(Vec::len).sum::<usize>() + planes;
            let images = network.parallel_images();
            assert!(images == 1 || images * bytes <= 1 << 30, "{images} of {bytes} bytes");
            at_a_time.push(images);
        }
        assert!(at_a_time[0] > 100 && at_a_time[1] < 50, "{at_a_time:?}");
    }
}

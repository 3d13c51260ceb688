//! A convolution of one image: its inputs as word lines, the kind of accesses that fits its products, and their errors.

use super::accesses::Counters;
use super::conv::{ArrayConv, Bounds, Products};
use super::counts::Counts;
use super::dots::{Dots, Noiseless, Noisy, Tallied};
use super::partial_sums::Histogram;
use crate::error::{Error, Result};
use crate::network::MapShape;

impl ArrayConv {
    /// The accumulators `[pixel][filter]` of image `image` of its data set, without bias. Partial sums are counted in `histograms`, where there are some, before noise.
    pub(super) fn run(
        &self,
        image: u64,
        input: &[u8],
        planes: &mut [u8],
        sums: &mut Vec<i32>,
        counters: &mut Counters,
        histograms: Option<&[Histogram]>,
    ) -> Result<()> {
        let MapShape { channels, height, width } = self.shape.input;
        for y in 0..height {
            for x in 0..width {
                let channels = &input[(y * width + x) * channels..][..channels];
                self.set_pixel(planes, self.inputs.pixel_at(y, x), channels);
            }
        }
        sums.clear();
        sums.resize(self.shape.output.len(), 0);
        let noisy = |noise| Noisy { noise, image };
        let done = match (&self.products, &self.noise, histograms) {
            (Products::Counts(conversion), _, histograms) => {
                self.accumulate(planes, sums, counters, Counts { conversion, histograms })
            }
            (&Products::Dots { narrow }, None, None) => {
                self.accumulate(planes, sums, counters, Dots { narrow, before: Noiseless })
            }
            (&Products::Dots { narrow }, Some(noise), None) => {
                self.accumulate(planes, sums, counters, Dots { narrow, before: noisy(noise) })
            }
            (&Products::Dots { narrow }, None, Some(histograms)) => {
                let before = Tallied { then: Noiseless, histograms };
                self.accumulate(planes, sums, counters, Dots { narrow, before })
            }
            (&Products::Dots { narrow }, Some(noise), Some(histograms)) => {
                let before = Tallied { then: noisy(noise), histograms };
                self.accumulate(planes, sums, counters, Dots { narrow, before })
            }
        };
        done.map_err(|at| {
            let Bounds { low, high } = at.bounds;
            Error::layer(
                &self.name,
                format!(
                    "a partial sum of access {} of filter set {} (weight slice {}, input phase {}) is not from {low} to {high}",
                    at.bundle * self.parts,
                    at.set,
                    at.slice,
                    at.phase
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv::tests::array;
    use super::*;
    use crate::hardware::chip::Hardware;

    #[test]
    fn a_partial_sum_out_of_range_names_layer_and_access() {
        let mut array = array(256, 1, 1, &Hardware::mars()).unwrap();
        let run = |array: &ArrayConv| {
            let mut sums = Vec::new();
            array.run(0, &[255; 256], &mut array.empty_planes(), &mut sums, &mut Counters::default(), None)?;
            Ok::<_, Error>(sums)
        };
        assert_eq!(run(&array).unwrap(), [255 * 256; 10]);
        array.sets[0].bundles[2].bounds[0] = Bounds { low: 0, high: 100 };
        assert_eq!(
            run(&array).unwrap_err().to_string(),
            "layer `conv`: a partial sum of access 4 of filter set 0 (weight slice 0, input phase 0) is not from 0 to 100"
        );
    }
}

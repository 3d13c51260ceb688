//! The forms to which a block rounds what it gives, forward and backward, image by image.
//!
//! What is rounded is made again from the batch norm's input where there is one, and is never stored.

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::Tensor;

use super::super::channels::{self, PerChannel};
use super::super::fake::{Grid, backward_part, forward_part};
use super::super::flex::FlexTensor;
use super::super::join::Join;
use super::affine::Normalized;

/// The most forms that a block rounds to.
pub(crate) const MAX_FORMS: usize = 2;

/// Floats that are worked on together.
const PART: usize = 1 << 11;

/// A form of values: whole numbers of a grid times a part of the forms' scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub grid: Grid,
    /// The form's scale is that of all forms, divided by this.
    pub divisor: f32,
}

impl Form {
    fn round<'o>(&self, scale: f32, unrounded: &[f32], out: &'o mut [MaybeUninit<f32>]) -> &'o mut [f32] {
        forward_part(self.grid, unrounded, scale / self.divisor, out)
    }

    /// Turns the form's gradients into those before the rounding; gives the sum for the forms' scale.
    fn gradient(&self, scale: f32, unrounded: &[f32], gradient: &mut [f32]) -> f32 {
        let sum = backward_part(self.grid, unrounded, scale / self.divisor, gradient);
        sum * self.grid.scale_gradient / self.divisor
    }
}

/// Up to [`MAX_FORMS`] forms of the same values.
#[derive(Clone)]
pub(crate) struct Forms {
    /// `[1]`.
    pub scale: Tensor<1>,
    pub forms: Vec<Form>,
}

/// What was rounded to which forms.
#[derive(Clone, Debug)]
pub(super) struct Rounded {
    pub scale: f32,
    pub forms: Vec<Form>,
    /// What was rounded, where no batch norm gives it.
    pub stored: Option<FlexTensor>,
    /// The residual value that joined.
    pub skip: Option<FlexTensor>,
}

impl Rounded {
    /// What is rounded of a block with this batch norm, where its residual value joins, and `len` floats an image.
    pub(super) fn unrounded<'a>(
        &'a self,
        normalized: Option<&'a Normalized>,
        join: Option<Join>,
        len: usize,
    ) -> Unrounded<'a> {
        let source = match (&self.stored, normalized) {
            (Some(stored), _) => Source::Stored(stored.storage()),
            (None, Some(Normalized { sums, norm, offset })) => Source::Normalized {
                sums: sums.storage(),
                gain: PerChannel::new(&norm.gain),
                offset: PerChannel::new(offset),
                joined: self.skip.as_ref().map(|skip| skip.storage()).zip(join),
            },
            (None, None) => unreachable!("what no batch norm gives is stored"),
        };
        Unrounded { source, len }
    }

    /// Writes an image in each form.
    pub(super) fn round<'o, const N: usize>(
        &self,
        unrounded: &Unrounded,
        image: usize,
        scratch: &mut [MaybeUninit<f32>],
        mut outs: [&'o mut [MaybeUninit<f32>]; N],
    ) -> [&'o mut [f32]; N] {
        assert!(self.forms.len() == N && outs.iter().all(|out| out.len() == unrounded.len));
        for place in unrounded.parts() {
            let part = unrounded.part(image, place.clone(), scratch);
            for (form, out) in self.forms.iter().zip(&mut outs) {
                form.round(self.scale, part, &mut out[place.clone()]);
            }
        }
        // SAFETY: each part was written in each form.
        outs.map(|out| unsafe { out.assume_init_mut() })
    }

    /// Turns an image's gradients of a form into those before it was rounded, to which it adds what comes from the other form, if that was
    /// read; gives the sum for the scale.
    pub(super) fn gradient(
        &self,
        unrounded: &Unrounded,
        image: usize,
        (form, gradient): (&Form, &mut [f32]),
        other: Option<(&Form, &[f32])>,
        [scratch, other_scratch]: &mut [Vec<MaybeUninit<f32>>; 2],
    ) -> f32 {
        let mut scale_sum = 0.0;
        for place in unrounded.parts() {
            let part = unrounded.part(image, place.clone(), scratch);
            let gradient = &mut gradient[place.clone()];
            scale_sum += form.gradient(self.scale, part, gradient);
            if let Some((form, other)) = other {
                let other = other_scratch[..part.len()].write_copy_of_slice(&other[place]);
                scale_sum += form.gradient(self.scale, part, other);
                channels::add(gradient, other);
            }
        }
        scale_sum
    }
}

/// What is rounded.
pub(super) struct Unrounded<'a> {
    source: Source<'a>,
    /// Floats of an image.
    len: usize,
}

enum Source<'a> {
    Stored(&'a [f32]),
    Normalized { sums: &'a [f32], gain: PerChannel, offset: PerChannel, joined: Option<(&'a [f32], Join)> },
}

impl Unrounded<'_> {
    /// Floats of a part, which the first-level cache holds where an image can be taken apart.
    pub(super) fn part_len(&self) -> usize {
        match &self.source {
            Source::Normalized { joined: Some((_, join)), .. } if !join.same() => self.len,
            // The values of the channels begin anew with each part.
            Source::Normalized { gain, .. } => (gain.run() * (PART / gain.run()).max(1)).min(self.len),
            Source::Stored(_) => PART.min(self.len),
        }
    }

    /// The parts of an image.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let (len, part) = (self.len, self.part_len());
        (0..len).step_by(part).map(move |first| first..(first + part).min(len))
    }

    /// A part of an image of it, in `scratch` where it isn't stored.
    fn part<'s>(&'s self, image: usize, part: Range<usize>, scratch: &'s mut [MaybeUninit<f32>]) -> &'s [f32] {
        let place = image * self.len + part.start..image * self.len + part.end;
        match &self.source {
            Source::Stored(values) => &values[place],
            Source::Normalized { sums, gain, offset, joined } => {
                let out = channels::scale(&sums[place.clone()], gain, offset, &mut scratch[..part.len()]);
                match joined {
                    Some((skip, join)) if join.same() => channels::add(out, &skip[place]),
                    Some((skip, join)) => join.add(out, &skip[image * join.len()..][..join.len()]),
                    None => {}
                }
                out
            }
        }
    }
}

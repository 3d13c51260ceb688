//! What a report is about: a network on a chip, whether it was run on images or nobody has trained it.

use crate::estimate::Estimate;
use crate::hardware::Evaluation;
use crate::integer::IntegerNetwork;
use crate::validation::Deployment;

/// A network on a chip.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Name of the network.
    pub(super) name: &'a str,
    pub(super) network: &'a IntegerNetwork,
    pub(super) evaluation: &'a Evaluation,
    pub(super) basis: Basis<'a>,
}

/// What the figures rest on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Basis<'a> {
    /// A package that was run on images.
    Package(&'a Deployment),
    /// Assumptions.
    Estimate(&'a Estimate),
}

impl<'a> From<&'a Deployment> for Subject<'a> {
    fn from(deployment: &'a Deployment) -> Self {
        Self {
            name: &deployment.network,
            network: &deployment.package.network,
            evaluation: &deployment.evaluation,
            basis: Basis::Package(deployment),
        }
    }
}

impl<'a> From<&'a Estimate> for Subject<'a> {
    fn from(estimate: &'a Estimate) -> Self {
        Self {
            name: &estimate.network,
            network: &estimate.integer,
            evaluation: &estimate.evaluation,
            basis: Basis::Estimate(estimate),
        }
    }
}

impl Subject<'_> {
    /// The text of `deploy.json`.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> crate::Result<String> {
        match self.basis {
            Basis::Package(deployment) => deployment.to_json(),
            Basis::Estimate(estimate) => estimate.to_json(),
        }
    }
}

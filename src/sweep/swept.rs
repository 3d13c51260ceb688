//! What a sweep is of: a package's network, with images or without, or a network that nobody has trained.

use super::space::Space;
use crate::data::Split;
use crate::error::{Error, Result};
use crate::estimate::{Assumptions, MadeUp};
use crate::groups::GroupShape;
use crate::hardware::{Evaluator, Hardware};
use crate::integer::IntegerNetwork;
use crate::network::NetworkSpec;
use crate::package::Package;

/// A network whose cost is asked for on each chip.
#[derive(Debug)]
pub struct Swept {
    /// The package's network, whatever groups a chip has; or for each shape of them the network that nobody has trained, or why there is none.
    networks: Vec<(Option<GroupShape>, std::result::Result<IntegerNetwork, String>)>,
    /// The images on which accuracy is measured.
    pub(super) test: Option<Split>,
    /// What was assumed of a network that nobody has trained.
    pub(super) made_up: Option<MadeUp>,
    /// Tells it from others.
    pub(super) fingerprint: Vec<u8>,
}

/// The networks with what of their cost doesn't depend on the chip.
pub(super) struct Evaluators<'a>(Vec<(Option<GroupShape>, std::result::Result<Found<'a>, &'a str>)>);

/// A network that has this chip's groups.
pub(super) struct Found<'a> {
    pub network: &'a IntegerNetwork,
    pub evaluator: Evaluator<'a>,
}

impl Swept {
    /// A package's network, and the test images for a space that asks for accuracy.
    ///
    /// # Errors
    /// A package that cannot be written.
    pub fn package(package: Package, test: Option<Split>) -> Result<Self> {
        let fingerprint = package.to_bytes()?;
        Ok(Self { networks: vec![(None, Ok(package.network))], test, made_up: None, fingerprint })
    }

    /// A network that nobody has trained, with each shape of groups that the space has.
    ///
    /// # Errors
    /// Assumptions that no shape of groups allows.
    pub fn untrained(spec: &NetworkSpec, assumptions: Assumptions, space: &Space) -> Result<Self> {
        let of_shape = |shape| (Some(shape), assumptions.network(spec.clone(), shape).map_err(|it| it.to_string()));
        let networks: Vec<_> = space.groups().into_iter().map(of_shape).collect();
        // What no shape of groups allows isn't the chips' fault.
        if let (Some((_, Err(message))), true) = (networks.first(), networks.iter().all(|(_, it)| it.is_err())) {
            return Err(Error::Setting(message.clone()));
        }
        let made_up = MadeUp::new(spec, assumptions);
        let fingerprint = format!("{spec:?}{made_up:?}").into_bytes();
        Ok(Self { networks, test: None, made_up: Some(made_up), fingerprint })
    }

    /// # Errors
    /// A network that isn't valid.
    pub(super) fn evaluators(&self) -> Result<Evaluators<'_>> {
        let mut evaluators = Vec::new();
        for (shape, network) in &self.networks {
            let found = match network {
                Ok(network) => Ok(Found { network, evaluator: Evaluator::new(network)? }),
                Err(message) => Err(message.as_str()),
            };
            evaluators.push((*shape, found));
        }
        Ok(Evaluators(evaluators))
    }
}

impl<'a> Evaluators<'a> {
    /// The network for a chip.
    ///
    /// # Errors
    /// There is none with the chip's groups.
    pub fn of(&self, hardware: &Hardware) -> Result<&Found<'a>> {
        let of_shape = self.0.iter().find(|(shape, _)| shape.is_none_or(|shape| shape == hardware.group));
        match of_shape {
            Some((_, Ok(found))) => Ok(found),
            Some((_, Err(message))) => Err(Error::Setting((*message).into())),
            None => Err(Error::Setting("no chip of this sweep was seen with its groups".into())),
        }
    }
}

//! Whether recipe, network, data and chip fit each other, before anything is trained.

use super::pruning::check_budget;
use super::recipe::Recipe;
use crate::data::{Dataset, ImageShape};
use crate::error::{Error, Result};
use crate::hardware::{Hardware, check_rules};
use crate::integer::{BitPlan, Fusion, outline};
use crate::network::{Graph, Node, Op};
use crate::package::check_bounds;

/// Checks all of it.
///
/// # Errors
/// Names the layer or the key that doesn't fit.
pub(super) fn all(recipe: &Recipe, graph: &Graph, data: &Dataset, hardware: &Hardware) -> Result<()> {
    check_input(recipe, graph, data)?;
    check_bounds(graph)
        .map_err(|error| Error::Setting(format!("no package can hold network `{}`: {error}", graph.spec().name)))?;
    recipe.quantize.check_patterns(graph)?;
    check_logits(graph, recipe)?;
    check_batches(recipe, graph, data)?;
    check_names(recipe, graph)?;
    check_widths(graph, recipe, hardware)?;
    check_rules(&outline(graph, &recipe.quantize, hardware.group), hardware)?;
    check_budget(graph, recipe, hardware)
}

/// Refuses images and labels that no data set has, as one made in memory may.
///
/// # Errors
/// Names the split.
pub(super) fn images(data: &Dataset) -> Result<()> {
    let Dataset { name, classes, train, validation, test } = data;
    for (split, what) in [(train, "training"), (validation, "validation"), (test, "test")] {
        let wrong = |message: String| Err(Error::Setting(format!("data set `{name}`, {what} images: {message}")));
        let (images, labels) = (split.images.len(), split.labels.len());
        if images != labels * split.shape.len() {
            let bytes = split.shape.len();
            return wrong(format!("{images} bytes aren't {labels} images of {bytes} bytes, one for each label"));
        }
        if labels > 0 && split.shape != train.shape {
            let [own, theirs] =
                [split, train].map(|split| [split.shape.channels, split.shape.height, split.shape.width]);
            return wrong(format!("they are {own:?}, the training images {theirs:?}"));
        }
        if labels == 0 && what != "validation" {
            return wrong("there are none".into());
        }
        if let Some(label) = split.labels.iter().find(|label| usize::from(**label) >= classes.len()) {
            return wrong(format!("label {label}, where there are {} classes", classes.len()));
        }
    }
    Ok(())
}

fn check_input(recipe: &Recipe, graph: &Graph, data: &Dataset) -> Result<()> {
    let spec = graph.spec();
    let ImageShape { channels, height, width } = data.train.shape;
    if spec.input != [channels, height, width] || spec.classes != data.classes.len() {
        let [_, rows, columns] = spec.input;
        let scaling = match [rows, columns] == [height, width] {
            true => String::new(),
            false => format!("; image_size = [{rows}, {columns}] scales the images of a folder"),
        };
        return Err(Error::Setting(format!(
            "network `{}` reads {:?} and has {} classes; data set `{}` has images [{channels}, {height}, {width}] and {} classes{scaling}",
            spec.name,
            spec.input,
            spec.classes,
            data.name,
            data.classes.len()
        )));
    }
    let side = height.min(width);
    if recipe.cutout >= side {
        let message =
            format!("cutout = {}: it must be below {side}, or nothing of an image would be left", recipe.cutout);
        return Err(Error::Setting(message));
    }
    let normalization = recipe.image_scale();
    if normalization.std.len() != channels {
        return Err(Error::Setting(format!(
            "normalization has {} channels, data set `{}` has images of {channels}",
            normalization.std.len(),
            data.name
        )));
    }
    Ok(())
}

/// A batch norm over one value a channel gives its offset, whatever it reads, and learns a variance of 0.
fn check_batches(recipe: &Recipe, graph: &Graph, data: &Dataset) -> Result<()> {
    let (size, images) = (recipe.batch_size, data.train.len());
    let last = if images.is_multiple_of(size) { size.min(images) } else { images % size };
    let fusion = recipe.quantize.fusion;
    let trains = recipe.phases.iter().any(|phase| phase.normalizes_by_batch(fusion));
    match graph.convs().find(|conv| conv.batch_norm && conv.shape.output.pixels() == 1) {
        Some(conv) if trains && last == 1 => Err(Error::layer(
            &conv.name,
            format!(
                "the last of {images} images in batches of {size} is alone, and its batch norm sees one value a channel: choose another batch_size"
            ),
        )),
        _ => Ok(()),
    }
}

/// What the recipe says of single layers has to be of the network's.
fn check_names(recipe: &Recipe, graph: &Graph) -> Result<()> {
    if let Some(module) = recipe.ignore.first().filter(|_| recipe.checkpoint().is_none()) {
        return Err(Error::Setting(format!(
            "ignore = [\"{module}\"]: the run starts from random weights, there is no checkpoint to read"
        )));
    }
    let known = |name: &str| {
        let norm = name.strip_suffix(".norm");
        graph.convs().any(|conv| conv.name == name || conv.batch_norm && Some(conv.name.as_str()) == norm)
    };
    match recipe.names.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => {
            let layers: Vec<String> = graph.convs().map(|conv| conv.name).collect();
            Err(Error::Setting(format!(
                "names: network `{}` has no layer `{name}` with weights; it has {}",
                graph.spec().name,
                layers.join(", ")
            )))
        }
    }
}

/// The logits share one scale, so that they can be compared; a batch norm that stays outside would give each column its own.
fn check_logits(graph: &Graph, recipe: &Recipe) -> Result<()> {
    match graph.nodes().last() {
        Some(Node { name, op: Op::Conv { batch_norm: true, .. }, .. }) if recipe.quantize.fusion == Fusion::None => {
            Err(Error::layer(name, "quantize.fusion = \"none\" cannot leave the batch norm of the last layer outside"))
        }
        _ => Ok(()),
    }
}

/// The macro has to hold the weights of every layer.
fn check_widths(graph: &Graph, recipe: &Recipe, hardware: &Hardware) -> Result<()> {
    let plan = BitPlan::new(graph, &recipe.quantize);
    let convs = graph.nodes().iter().zip(&plan.nodes).filter_map(|(node, bits)| Some((node, bits.conv()?)));
    for (node, bits) in convs {
        hardware.precision(bits.weights, bits.input).map_err(|message| Error::layer(&node.name, message))?;
    }
    Ok(())
}

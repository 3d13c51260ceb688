//! What exporters compute with whole numbers in the graph, from the shape of an image on.

use super::integers::{Integers, squeezed, too_many, unsqueezed};
use super::model::OnnxNode;

/// What a node makes of its inputs; those that are left out are none. `fill` is what it makes a tensor of, if it makes one.
///
/// # Errors
/// An operation that exporters don't use for shapes, or inputs that don't fit it.
pub(super) fn compute(node: &OnnxNode, inputs: &[Option<&Integers>], fill: i64) -> Result<Integers, String> {
    let input = |number: usize| -> Result<&Integers, String> {
        inputs.get(number).copied().flatten().ok_or_else(|| format!("its input {number} is missing"))
    };
    let attribute = |name: &str| Ok::<_, String>(node.attribute(name)?);
    let integer = |name: &str| Ok::<_, String>(attribute(name)?.and_then(|attribute| attribute.integer));
    // Later versions of ONNX give as an input what earlier ones give as an attribute.
    let axes = |number: usize| -> Result<Vec<i64>, String> {
        let listed = attribute("axes")?.map(|attribute| attribute.integers);
        Ok(listed.or_else(|| inputs.get(number).copied().flatten().map(|axes| axes.values.clone())).unwrap_or_default())
    };
    let result = match node.kind {
        "Cast" | "CastLike" => input(0)?.clone(),
        "Expand" => input(0)?.expand(&input(1)?.values)?,
        "Squeeze" => Integers { sizes: squeezed(&input(0)?.sizes, &axes(1)?)?, ..input(0)?.clone() },
        "Unsqueeze" => Integers { sizes: unsqueezed(&input(0)?.sizes, &axes(1)?)?, ..input(0)?.clone() },
        "Reshape" => input(0)?.reshape(&input(1)?.values)?,
        "Transpose" if turns(node, input(0)?.sizes.len())? => input(0)?.transpose()?,
        "Transpose" => input(0)?.clone(),
        "Gather" if integer("axis")?.unwrap_or(0) == 0 => input(0)?.gather(input(1)?)?,
        "Slice" => input(0)?.slice(
            [input(1)?, input(2)?],
            inputs.get(3).copied().flatten(),
            inputs.get(4).copied().flatten(),
        )?,
        "Concat" if integer("axis")?.unwrap_or(0) == 0 => {
            let inputs = (0..inputs.len()).map(input).collect::<Result<Vec<_>, _>>()?;
            if inputs.iter().any(|input| input.sizes.len() != 1) {
                return Err("it joins what are no lists".into());
            }
            Integers::list(inputs.iter().flat_map(|input| input.values.iter().copied()).collect())
        }
        "ConstantOfShape" => {
            let sizes: Option<Vec<usize>> = input(0)?.values.iter().map(|size| usize::try_from(*size).ok()).collect();
            let sizes = sizes.ok_or("a size is below 0")?;
            let count = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
            let count = count.filter(|count| *count <= Integers::MOST).ok_or_else(too_many)?;
            Integers { sizes, values: vec![fill; count] }
        }
        "Add" | "Sub" | "Mul" | "Div" => input(0)?.combine(input(1)?, node.kind)?,
        _ => return Err("nothing of the kind is done with shapes".into()),
    };
    let sizes = &result.sizes;
    let too_large = sizes.len() > Integers::MOST_SIZES || sizes.iter().any(|size| *size > Integers::MOST);
    if too_large || result.values.len() > Integers::MOST {
        return Err(too_many());
    }
    Ok(result)
}

/// Whether a `Transpose` exchanges rows and columns; otherwise it leaves things as they are.
///
/// # Errors
/// Another order of more than two dimensions.
pub(super) fn turns(node: &OnnxNode, dimensions: usize) -> Result<bool, String> {
    let order = match node.attribute("perm")? {
        Some(attribute) => attribute.integers,
        None => (0..dimensions as i64).rev().collect(),
    };
    if order.iter().copied().eq(0..dimensions as i64) {
        return Ok(false);
    }
    match order[..] {
        [1, 0] if dimensions == 2 => Ok(true),
        _ => Err(format!("it puts {dimensions} dimensions into the order {order:?}")),
    }
}

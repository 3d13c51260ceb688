//! What the programs know by name.

use crate::builtin;
use crate::data::DATASETS;
use crate::files::read_toml;
use crate::foreign::TomlKind;
use crate::network::ZOO;

/// Networks, data sets, checkpoints, recipes and hardware files, a line each kind.
pub fn catalog() -> String {
    let within = |folder: &str| -> Vec<&str> {
        builtin::paths().filter(|path| path.rsplit_once('/').is_some_and(|(parent, _)| parent == folder)).collect()
    };
    let is_recipe =
        |path: &&str| read_toml(path.as_ref()).is_ok_and(|table| TomlKind::of(&table) == Some(TomlKind::Recipe));
    let recipes: Vec<&str> =
        within("experiments").into_iter().filter(is_recipe).chain(within("experiments/recipes")).collect();
    let hardware: Vec<&str> = builtin::hardware().collect();
    let mut text = String::new();
    for (kind, names, others) in [
        ("networks (--model)", ZOO.to_vec(), "a TOML or ONNX file, a package (.mars)"),
        (
            "data sets (--dataset)",
            DATASETS.to_vec(),
            "a folder of images (train/CLASS/), a folder of IDX files, an .npz file",
        ),
        (
            "checkpoints (--pretrained)",
            within("checkpoints"),
            "a file of PyTorch, safetensors or ONNX, a package (.mars)",
        ),
        ("recipes (--recipe)", recipes, "a TOML file"),
        ("hardware (--hardware)", hardware, "a TOML file"),
    ] {
        text += &format!("{kind}\n");
        names.iter().for_each(|name| text += &format!("  {name}\n"));
        text += &format!("  or {others}\n");
    }
    text
}

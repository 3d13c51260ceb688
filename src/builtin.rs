//! Files of the repository that are part of the programs, so that these work in any folder. A file of the same name on the disk comes first.

use std::ffi::OsStr;
use std::path::{Component, Path};

use crate::error;

macro_rules! files {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_bytes!(concat!("../", $name)))),+] };
}

/// Recipes, experiments and hardware files by their paths in the repository.
const TEXTS: &[(&str, &[u8])] = files![
    "experiments/bits.toml",
    "experiments/converter.toml",
    "experiments/cycles.toml",
    "experiments/fusion.toml",
    "experiments/hardware/adc3.toml",
    "experiments/hardware/adc4.toml",
    "experiments/hardware/adc5.toml",
    "experiments/hardware/library/chen-isscc2023.toml",
    "experiments/hardware/library/chih-isscc2021.toml",
    "experiments/hardware/library/guo-isscc2023.toml",
    "experiments/hardware/library/jia-jssc2020.toml",
    "experiments/hardware/library/kim-jssc2021.toml",
    "experiments/hardware/library/papistas-cicc2021.toml",
    "experiments/hardware/library/si-jssc2021.toml",
    "experiments/hardware/library/su-isscc2021.toml",
    "experiments/hardware/library/wang-vlsi2022.toml",
    "experiments/hardware/library/wu-isscc2022.toml",
    "experiments/hardware/mars-16x1.toml",
    "experiments/hardware/mars-8x16.toml",
    "experiments/hardware/mars.toml",
    "experiments/hardware/sweep.toml",
    "experiments/paper.toml",
    "experiments/progressive.toml",
    "experiments/quickstart.toml",
    "experiments/recipes/fusion.toml",
    "experiments/recipes/paper-float.toml",
    "experiments/recipes/quantize.toml",
    "experiments/recipes/sparsify-deep.toml",
    "experiments/recipes/sparsify.toml",
    "experiments/resnet20-fast.toml",
    "experiments/resnet20-float.toml",
    "experiments/resnet20-long.toml",
    "experiments/resnet20-w4a4-sparse50.toml",
    "experiments/resnet20-w4a4.toml",
    "experiments/resnet20-w8a8.toml",
    "experiments/resnet20.toml",
    "experiments/shapes.toml",
    "experiments/vgg8-float.toml",
    "experiments/vgg8.toml",
];

/// Checkpoints, which only training needs.
#[cfg(feature = "train")]
const CHECKPOINTS: &[(&str, &[u8])] =
    files!["checkpoints/resnet20-long.safetensors", "checkpoints/resnet20.safetensors", "checkpoints/vgg8.safetensors"];
#[cfg(not(feature = "train"))]
const CHECKPOINTS: &[(&str, &[u8])] = &[];

/// The paths of all of them, sorted in each folder.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    CHECKPOINTS.iter().chain(TEXTS).map(|(path, _)| *path)
}

/// The hardware files: those of `experiments/hardware`, then its library of published chips.
pub(crate) fn hardware() -> impl Iterator<Item = &'static str> {
    let within = |folder: &'static str| {
        let inside = move |path: &&str| path.rsplit_once('/').is_some_and(|(parent, _)| parent == folder);
        paths().filter(inside).filter(|path| !path.ends_with("sweep.toml"))
    };
    within("experiments/hardware").chain(within("experiments/hardware/library"))
}

/// The file of a path from the current folder.
pub(crate) fn find(path: &Path) -> Option<&'static [u8]> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::Prefix(_) | Component::RootDir => return None,
        }
    }
    let name = parts.join("/");
    CHECKPOINTS.iter().chain(TEXTS).find(|(path, _)| *path == name).map(|(_, bytes)| *bytes)
}

/// The one that may be meant by a path that isn't there, where no chip is asked for: its name is like that of `path`, and has the same ending.
pub(crate) fn closest(path: &Path) -> Option<&'static str> {
    closest_of(path, paths().filter(|known| !known.starts_with("experiments/hardware/")))
}

/// The hardware file that may be meant by a path that isn't there.
pub(crate) fn closest_hardware(path: &Path) -> Option<&'static str> {
    closest_of(path, hardware())
}

fn closest_of(path: &Path, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let stem = |path: &'static str| Path::new(path).file_stem().and_then(OsStr::to_str).unwrap_or(path);
    let same_ending = |known: &&str| path.extension().is_none_or(|ending| Path::new(known).extension() == Some(ending));
    let known: Vec<&str> = known.filter(same_ending).collect();
    let name = error::closest(path.file_stem()?.to_str()?, known.iter().copied().map(stem))?;
    // Among those of one name the one in the folder that was named comes first.
    let inside = |known: &&str| Path::new(known).parent() == path.parent();
    let named: Vec<&str> = known.into_iter().filter(|known| stem(known) == name).collect();
    named.iter().copied().find(inside).or(named.first().copied())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_recipe_experiment_and_hardware_file_is_there() {
        let checkpoints = cfg!(feature = "train").then_some("checkpoints");
        for folder in ["experiments", "experiments/hardware", "experiments/hardware/library", "experiments/recipes"]
            .into_iter()
            .chain(checkpoints)
        {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "toml" || extension == "safetensors") {
                    assert!(find(&path) == Some(&*fs::read(&path).unwrap()), "{}", path.display());
                }
            }
        }
    }

    #[test]
    fn a_path_that_is_not_there_may_mean_one_of_the_same_kind() {
        for (path, meant) in [
            ("quantise", Some("experiments/recipes/quantize.toml")),
            ("experiments/quikstart.toml", Some("experiments/quickstart.toml")),
            ("mars-16x2.toml", None),
            ("experiments/recipes/fusion.toml", Some("experiments/recipes/fusion.toml")),
            ("fusion", Some("experiments/fusion.toml")),
            ("quantise.mars", None),
            ("my-chip.toml", None),
            ("", None),
        ] {
            assert_eq!(closest(path.as_ref()), meant, "{path}");
        }
        assert_eq!(closest_hardware("mars-16x2.toml".as_ref()), Some("experiments/hardware/mars-16x1.toml"));
        assert_eq!(closest_hardware("quantize.toml".as_ref()), None);
        let checkpoint = cfg!(feature = "train").then_some("checkpoints/resnet20-long.safetensors");
        assert_eq!(closest("resnet20-lng.safetensors".as_ref()), checkpoint);
    }

    #[test]
    fn a_path_may_go_up_and_down() {
        assert!(find("./experiments/recipes/../hardware/mars.toml".as_ref()).is_some());
        assert!(find("experiments/../../experiments/quickstart.toml".as_ref()).is_none());
        assert!(find("/experiments/quickstart.toml".as_ref()).is_none() && find("quickstart.toml".as_ref()).is_none());
    }
}

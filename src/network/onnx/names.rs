//! Names of layers, from what exporters call nodes and weights.

use std::collections::BTreeMap;

/// Gives each layer a name of its own.
#[derive(Default)]
pub(super) struct Names {
    used: BTreeMap<String, usize>,
}

impl Names {
    /// The name of a layer: that of its weights in the module, else that of its node.
    pub fn layer(&mut self, node: &str, kind: &str, weights: Option<&str>) -> String {
        let module = weights.and_then(|weights| weights.strip_suffix(".weight")).filter(|name| is_plain(name));
        let name = module.map_or_else(|| of_node(node, kind), String::from);
        let count = self.used.entry(name.clone()).or_default();
        *count += 1;
        match *count {
            1 => name,
            count => self.layer(&format!("{name}_{count}"), "", None),
        }
    }
}

/// Whether a name can be that of a layer.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "image" && !name.contains([':', '/'])
}

/// The path of a module in a node's name: `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`.
fn of_node(node: &str, kind: &str) -> String {
    let node = node.strip_prefix("node_").unwrap_or(node).replace(':', "_");
    let mut parts: Vec<&str> = node.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() > 1 && parts.last().is_some_and(|part| part.split('_').next() == Some(kind)) {
        parts.pop();
    }
    let mut path = String::new();
    let mut parent = "";
    for part in parts {
        // A module in a list is named with its list.
        let own = part.strip_prefix(parent).filter(|rest| !parent.is_empty() && rest.starts_with('.'));
        match own {
            Some(own) => path += own,
            None if path.is_empty() => path += part,
            None => {
                path += ".";
                path += part;
            }
        }
        parent = part;
    }
    match path.as_str() {
        "" | "image" => {
            if kind.is_empty() {
                "layer".into()
            } else {
                kind.to_lowercase()
            }
        }
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_called_as_their_modules() {
        let name = |node: &str, kind: &str, weights| Names::default().layer(node, kind, weights);
        assert_eq!(name("node_conv2d", "Conv", Some("layer1.0.conv1.weight")), "layer1.0.conv1");
        assert_eq!(name("/layer1/layer1.0/conv1/Conv", "Conv", Some("onnx::Conv_193")), "layer1.0.conv1");
        assert_eq!(name("/features/features.0/features.0.0/Conv", "Conv", None), "features.0.0");
        assert_eq!(name("/l/l.1/shortcut/shortcut.0/Conv", "Conv", None), "l.1.shortcut.0");
        assert_eq!(name("/GlobalAveragePool", "GlobalAveragePool", None), "GlobalAveragePool");
        assert_eq!(name("node_avg_pool2d", "AveragePool", None), "avg_pool2d");
        assert_eq!(name("", "Conv", Some("onnx::Conv_1")), "conv");
        assert_eq!(name("/image/Conv", "Conv", Some("image.weight")), "conv");
    }

    #[test]
    fn a_name_is_given_once() {
        let mut names = Names::default();
        let given: Vec<String> = (0..4).map(|_| names.layer("/a/Conv", "Conv", None)).collect();
        assert_eq!(given, ["a", "a_2", "a_3", "a_4"]);
        assert_eq!(names.layer("/a_2/Conv", "Conv", None), "a_2_2");
    }
}

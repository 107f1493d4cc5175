//! Which files of a repository a runtime needs.
//!
//! Many repositories hold the same weights in several formats. One is enough: safetensors where they are, else
//! PyTorch's, else GGUF, and everything that is no weight (configuration, tokenizer, templates, code). llama.cpp takes
//! one GGUF model, of which a repository often has one for each quantization.

use super::error::{Kind, ModelError};

/// What a model is fetched for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// A directory of weights, tokenizer and configuration.
    Weights,
    /// One GGUF model, of the quantization that is named, or else of the usual one.
    Gguf(Option<String>),
}

/// Formats of weights, the best first. Of those that a repository has, the best is fetched.
const FORMATS: [&[&str]; 4] = [&[".safetensors"], &[".bin"], &[".pt", ".pth", ".ckpt"], &[".gguf"]];
/// Formats that none of the runtimes loads.
const OTHERS: [&str; 9] =
    [".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".tflite", ".mlmodel", ".mlpackage", ".nemo"];
/// Directories with copies of the same weights for other programs.
const COPIES: [&str; 6] = ["original/", "onnx/", "openvino/", "coreml/", "metal/", "flax/"];
/// Quantizations in the order in which people mostly want them.
pub(super) const QUANTIZATIONS: [&str; 8] =
    ["Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0", "Q3_K_M", "F16"];

/// The names that are needed, and for GGUF the one that is given to the runtime.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) first: Option<&'a str>,
}

/// Chooses among the names of a repository's files.
///
/// # Errors
/// When there is nothing that a runtime could load.
pub(super) fn choose<'a>(names: &[&'a str], purpose: &Purpose) -> Result<Choice<'a>, ModelError> {
    match purpose {
        Purpose::Gguf(quantization) => {
            let parts = gguf(names, quantization.as_deref())?;
            Ok(Choice { first: parts.first().copied(), names: parts })
        }
        Purpose::Weights => weights(names),
    }
}

fn weights<'a>(names: &[&'a str]) -> Result<Choice<'a>, ModelError> {
    let mine: Vec<&str> = names.iter().copied().filter(|name| !is_copy(name)).collect();
    let best = FORMATS.iter().find(|format| mine.iter().any(|name| is_one_of(name, format)));
    let Some(best) = best else {
        return Err(nothing("weights (.safetensors, .bin, .pt or .gguf)", names));
    };
    let mut chosen: Vec<&str> =
        mine.iter().copied().filter(|name| !is_weight(name) || is_one_of(name, best)).collect();
    if best.contains(&".gguf") {
        let parts = gguf(&mine, None)?;
        chosen.retain(|name| !is_one_of(name, best) || parts.contains(name));
    }
    Ok(Choice { names: chosen, first: None })
}

fn is_copy(name: &str) -> bool {
    COPIES.iter().any(|dir| name.starts_with(dir))
}

/// Whether a file holds weights, of whatever format.
pub(super) fn is_weight(name: &str) -> bool {
    FORMATS.iter().any(|format| is_one_of(name, format)) || is_one_of(name, &OTHERS)
}

fn is_one_of(name: &str, endings: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    endings.iter().any(|ending| name.ends_with(ending))
}

/// The parts of one GGUF model, in order.
fn gguf<'a>(names: &[&'a str], quantization: Option<&str>) -> Result<Vec<&'a str>, ModelError> {
    let is_model = |name: &&str| is_one_of(name, &[".gguf"]) && !file_name(name).contains("mmproj");
    let mut models: Vec<&str> = names.iter().copied().filter(is_model).collect();
    models.sort_unstable();
    let wanted = |quantization: &str| models.iter().copied().find(|name| has_word(name, quantization));
    let first = match quantization {
        Some(quantization) => wanted(quantization)
            .ok_or_else(|| nothing(&format!("GGUF file of the quantization {quantization}"), &models))?,
        None => {
            let usual = QUANTIZATIONS.iter().find_map(|usual| wanted(usual));
            usual
                .or(models.first().copied())
                .ok_or_else(|| nothing("GGUF file, and llama.cpp takes no other", names))?
        }
    };
    let parts = match set_of(first) {
        Some((stem, of)) => models.into_iter().filter(|name| set_of(name) == Some((stem, of))).collect(),
        None => vec![first],
    };
    Ok(parts)
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a quantization stands in a path as a word of its own, in either case.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_ascii_lowercase(), word.to_ascii_lowercase());
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.match_indices(&word).any(|(at, _)| {
        let (before, after) = (name.get(..at).unwrap_or(""), name.get(at + word.len()..).unwrap_or(""));
        !before.ends_with(is_inside) && !after.starts_with(is_inside)
    })
}

/// For `x-00001-of-00003.gguf`: `x` and `00003`, which all of its parts share.
fn set_of(name: &str) -> Option<(&str, &str)> {
    let stem = name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".GGUF"))?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(of)).then_some((stem, of))
}

fn nothing(what: &str, names: &[&str]) -> ModelError {
    let mut some: Vec<&str> = names.iter().copied().take(5).collect();
    if names.len() > some.len() {
        some.push("…");
    }
    let there =
        if some.is_empty() { "it is empty".to_owned() } else { format!("it has {}", some.join(", ")) };
    ModelError::new(Kind::NotFound, format!("the repository has no {what}; {there}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], purpose: &Purpose) -> Vec<String> {
        choose(names, purpose).expect("a choice").names.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn one_format_of_weights_is_enough() {
        let names = [
            ".gitattributes",
            "config.json",
            "tokenizer.model",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "pytorch_model.bin",
            "model.safetensors.index.json",
            "original/consolidated.00.pth",
            "onnx/model.onnx",
            "tf_model.h5",
            "flax_model.msgpack",
            "x.Q4_0.gguf",
            "chat_template.jinja",
            "modeling_x.py",
        ];
        assert_eq!(
            chosen(&names, &Purpose::Weights),
            [
                ".gitattributes",
                "config.json",
                "tokenizer.model",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "chat_template.jinja",
                "modeling_x.py",
            ]
        );
        assert_eq!(chosen(&["a.bin", "b.pt", "c.json"], &Purpose::Weights), ["a.bin", "c.json"]);
        assert_eq!(
            chosen(&["a-Q4_K_M.gguf", "a-Q8_0.gguf", "config.json"], &Purpose::Weights),
            ["a-Q4_K_M.gguf", "config.json"]
        );
        let error = choose(&["README.md", "tf_model.h5"], &Purpose::Weights).expect_err("no weights");
        assert!(error.to_string().contains("README.md"), "{error}");
    }

    #[test]
    fn the_usual_quantization_is_taken_unless_another_is_asked_for() {
        let names = ["m-f16.gguf", "m-q4_k_m.gguf", "m-q8_0.gguf", "mmproj-q4_k_m.gguf", "README.md"];
        let gguf = |quantization: Option<&str>| Purpose::Gguf(quantization.map(str::to_owned));
        assert_eq!(chosen(&names, &gguf(None)), ["m-q4_k_m.gguf"]);
        assert_eq!(chosen(&names, &gguf(Some("Q8_0"))), ["m-q8_0.gguf"]);
        assert_eq!(chosen(&["only.gguf"], &gguf(None)), ["only.gguf"]);
        assert_eq!(chosen(&["b-IQ2.gguf", "a-IQ1.gguf"], &gguf(None)), ["a-IQ1.gguf"]);
        let error = choose(&names, &gguf(Some("Q2_K"))).expect_err("not there");
        assert!(error.to_string().contains("Q2_K") && error.to_string().contains("m-f16.gguf"), "{error}");
        assert!(choose(&["model.safetensors"], &gguf(None)).is_err());
        // A quantization is a word, not a part of one.
        assert!(choose(&["m-IQ4_K_M.gguf"], &gguf(Some("Q4_K_M"))).is_err());
    }

    #[test]
    fn all_parts_of_a_split_model_are_taken() {
        let names = [
            "Q4_K_M/m-00002-of-00002.gguf",
            "Q4_K_M/m-00001-of-00002.gguf",
            "Q8_0/m-00001-of-00001.gguf",
            "m-00001-of-00003.gguf",
        ];
        let choice = choose(&names, &Purpose::Gguf(None)).expect("a choice");
        assert_eq!(choice.names, ["Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M/m-00002-of-00002.gguf"]);
        assert_eq!(choice.first, Some("Q4_K_M/m-00001-of-00002.gguf"));
    }
}

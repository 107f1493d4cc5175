//! The tools that the model is offered.

use std::borrow::Cow;

use super::json::{Fields, each, is_empty_array, is_text, text};
use super::refusal;
use crate::adapter::Refusal;

/// The tools that a choice leaves: all, none, or the one that it names. Nothing can force the model to call one.
pub(super) fn offered<'a>(
    tools: Option<&'a str>,
    choice: Option<&str>,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let tools = tools.filter(|json| !is_empty_array(json));
    if let Some(tools) = tools {
        each(tools, &refusal(Some("tools"), "tools must be an array."), |_| Ok(()))?;
    }
    let wrong = |message: &str| refusal(Some("tool_choice"), message);
    let unknown = || wrong("tool_choice must be none, auto, required or name a function.");
    let without = || wrong("tool_choice asks for a tool, but there are no tools.");
    let Some(choice) = choice else { return Ok(tools.map(Cow::Borrowed)) };
    if is_text(choice) {
        return match text(choice).as_deref() {
            Some("auto") => Ok(tools.map(Cow::Borrowed)),
            Some("none") => Ok(None),
            Some("required") => tools.map(Cow::Borrowed).map(Some).ok_or_else(without),
            _ => Err(unknown()),
        };
    }
    let named = name_of(choice).ok_or_else(unknown)?;
    let mut found = None;
    each(tools.ok_or_else(without)?, &unknown(), |tool| {
        if found.is_none() && name_of(tool).as_ref() == Some(&named) {
            found = Some(Cow::Owned(format!("[{tool}]")));
        }
        Ok(())
    })?;
    found.map(Some).ok_or_else(|| wrong("tool_choice names a function that is not among the tools."))
}

/// The name of the function that a tool or a choice is about.
fn name_of(json: &str) -> Option<Cow<'_, str>> {
    let function = Fields::of(json, &["function"])?.get("function")?;
    text(Fields::of(function, &["name"])?.get("name")?)
}

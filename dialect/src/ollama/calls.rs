//! Tool calls of the model, as clients read them.

use super::generation::Reply;
use super::json::{Object, is_text, quote};
use super::logprobs::put_array;
use super::said::ToolCall;

/// Writes `tool_calls`. They are counted on from `count`: Ollama may begin anew with each object of a stream, but
/// clients put calls with the same index together.
pub(super) fn put(calls: &[ToolCall<'_>], count: &mut usize, reply: &Reply, out: &mut Vec<u8>) {
    put_array(calls, out, |call, out| {
        let mut object = Object::open(out);
        object.json("index", &count.to_string());
        match call.id() {
            Some(id) => object.json("id", id),
            None => object.text("id", &reply.call_id(*count)),
        }
        object.json("type", "\"function\"");
        let mut function = Object::open(object.name("function"));
        function.json("name", call.name());
        let arguments = call.arguments();
        if is_text(arguments) {
            function.json("arguments", arguments);
        } else {
            quote(function.name("arguments"), arguments);
        }
        function.close();
        object.close();
        *count = count.saturating_add(1);
    });
}

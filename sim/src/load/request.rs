//! The bytes of a request. All are the same, so they are made once.

use serde_json::json;

use super::args::Args;

/// What prompts are made of.
const WORDS: &str = "What a load client asks does not matter, only how much of it there is; ";

/// A request as it goes over the wire; `stream` overrules the command line's wish.
pub(crate) fn bytes(args: &Args, stream: bool) -> Vec<u8> {
    let body = body(args, stream);
    let mut head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nuser-agent: nebula-sim/{}\r\naccept: */*\r\ncontent-type: application/json\r\n",
        args.url.path(&args.path),
        args.url.server(),
        env!("CARGO_PKG_VERSION"),
    );
    let token = args.token.as_ref().map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
    for (name, value) in token.iter().chain(&args.headers) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.into_bytes(), body].concat()
}

fn body(args: &Args, stream: bool) -> Vec<u8> {
    let size = usize::try_from(args.prompt_bytes).unwrap_or(usize::MAX);
    let prompt: String = WORDS.chars().cycle().take(size).collect();
    let mut body = match args.path.as_str() {
        "/chat/completions" => {
            json!({ "model": args.model, "messages": [{ "role": "user", "content": prompt }] })
        }
        "/completions" => json!({ "model": args.model, "prompt": prompt }),
        _ => json!({ "model": args.model, "input": prompt }),
    };
    if let Some(fields) = body.as_object_mut() {
        if let Some(max_tokens) = args.max_tokens {
            fields.insert("max_tokens".to_owned(), max_tokens.into());
        }
        if stream {
            fields.insert("stream".to_owned(), true.into());
        }
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_request_says_what_the_flags_say() {
        let line = [
            "x",
            "--url",
            "http://127.0.0.1:9/v1",
            "--token",
            "secret",
            "--header",
            "x-sim-tokens: 3",
            "--max-tokens",
            "7",
            "--prompt-bytes",
            "220000",
        ];
        let args = Cli::parse_from(line).args;
        let request = String::from_utf8(bytes(&args, true)).expect("text");
        let (head, body) = request.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:9\r\n"), "{head}");
        for line in
            ["authorization: Bearer secret", "x-sim-tokens: 3", &format!("content-length: {}", body.len())]
        {
            assert!(head.contains(&format!("\r\n{line}")), "{line} in {head}");
        }
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(
            (&body["model"], &body["max_tokens"], &body["stream"]),
            (&"demo".into(), &7.into(), &true.into())
        );
        assert_eq!(body["messages"][0]["content"].as_str().map(str::len), Some(220_000));
    }
}

//! The properties of the `rest` sink, one row each, and their combinations.

use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value as Json;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Uri};

use super::request::{BodyType, Dynamic, Method, is_template};
use super::tokens::{OAuth, TokenRequest, token_server};
use super::{Origin, ResponseType, RestSink, Retry};
use crate::format::address::{Addressing, Part};
use crate::io::spool::properties::{self as cache, CacheDraft, TakesCache};
use crate::io::tls_properties::{self, TakesTls, TlsDraft};
use crate::property::{Findings, Property, Warning, Wrong};

/// The properties as written, before they are combined.
#[derive(Clone, Default)]
pub(super) struct Draft {
    /// settings that depend on a single property
    sink: RestSink,
    method: String,
    url: String,
    body_type: String,
    headers: Vec<(String, String)>,
    form_data: Vec<(String, String)>,
    access: TokenDraft,
    expire: String,
    refresh: TokenDraft,
    tls: TlsDraft,
    cache: CacheDraft,
    retry: Retry,
}

/// The properties of a token request.
#[derive(Clone, Default)]
struct TokenDraft {
    url: String,
    body: String,
    headers: Vec<(String, String)>,
}

impl TakesTls for Draft {
    fn tls(&mut self) -> &mut TlsDraft {
        &mut self.tls
    }
}

impl TakesCache for Draft {
    fn cache(&mut self) -> &mut CacheDraft {
        &mut self.cache
    }
}

type Row = Property<Draft>;

/// The shortest wait between two attempts, so that a server that refuses is not flooded.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// The expected value of a property with headers.
const HEADERS: &str = "an object of texts that are valid HTTP headers";

/// The default time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const PROPERTIES: &[Row] = &[
    Row::text("url", |draft, url| draft.url = url.trim().to_owned())
        .of_sink()
        .doc("Where requests go: `http://` or `https://`"),
    Row::text("method", |draft, method| draft.method = method.to_owned())
        .default("get")
        .of_sink()
        .doc("`get`, `post`, `put`, `patch`, `delete` or `head`, in any case"),
    Row::text("bodyType", |draft, body_type| draft.body_type = body_type.to_owned()).of_sink().doc(
        "Kind of body: `none`, `json`, `text`, `html`, `xml`, `javascript`, `form`, `formdata` or `binary`; it \
         determines Content-Type unless `headers` set it. Default: `none` for `get` and `head`, else `json`. `form` \
         encodes the results as forms (`format: urlencoded`)",
    ),
    Row::any("headers", "object", HEADERS, |draft, value| headers(value, &mut draft.headers))
        .of_sink()
        .doc("Additional headers, each a text"),
    Row::duration("timeout", |draft, limit| {
        draft.sink.timeout = if limit.is_zero() { TIMEOUT } else { limit };
    })
    .default("5000")
    .of_sink()
    .doc("Time limit of a request, from the dial to the end of the answer"),
    Row::whole("concurrency", 1, 1024, |draft, requests| draft.sink.concurrency = requests as usize)
        .default("1")
        .of_sink()
        .doc("How many requests are in flight at once; above 1, they may arrive in another order"),
    Row::object(
        "retry",
        &[
            Row::duration("initial", |draft, wait| draft.retry.initial = wait.max(SHORTEST_WAIT)).default("100ms"),
            Row::duration("max", |draft, wait| draft.retry.max = wait).default("30s"),
            Row::whole("attempts", 1, u64::MAX, |draft, attempts| draft.retry.attempts = attempts).default("10"),
        ],
    )
    .of_sink()
    .doc(
        "Waits between two attempts: the first one, and the longest one (each is twice the one before); and the \
     number of responses with status 500 or above, except 503, after which a message is lost",
    ),
    Row::object(
        "queue",
        &[
            Row::whole("messages", 1, usize::MAX as u64, |draft, messages| {
                draft.sink.queue.messages = messages as usize
            })
            .default("65536"),
            Row::whole("bytes", 1, usize::MAX as u64, |draft, bytes| draft.sink.queue.bytes = bytes as usize)
                .default("16777216"),
        ],
    )
    .shorthand("messages")
    .of_sink()
    .doc("The queue limit; beyond it, the oldest messages are dropped"),
    Row::flag("debugResp", |draft, debug| draft.sink.debug_response = debug)
        .default("false")
        .of_sink()
        .doc("Write each response to the log, at level info"),
    Row::choice("responseType", &["code", "body"], |draft, response| {
        draft.sink.response = if response == "body" { ResponseType::Body } else { ResponseType::Code };
    })
    .default("code")
    .of_sink()
    .doc(
        "How a successful response is recognised. `code`: by the status. `body`: also by the member `code` of the \
     response, a JSON object, which must be from 200 to 299",
    ),
    Row::any("formData", "object", "an object of texts", |draft, value| {
        draft.form_data = texts(value)?;
        Ok(())
    })
    .of_sink()
    .doc("Fields of the form of `bodyType: formdata`, each a text or a [template](sinks.md#templates)"),
    Row::text("fileFieldName", |draft, name| draft.sink.form.file = name.to_owned())
        .of_sink()
        .doc("The field of that form that holds the message, as a file"),
    Row::object(
        "oAuth",
        &[
            Row::object(
                "access",
                &[
                    Row::text("url", |draft, url| draft.access.url = url.trim().to_owned()),
                    Row::text("body", |draft, body| draft.access.body = body.to_owned()),
                    Row::any("headers", "object", HEADERS, |draft, value| headers(value, &mut draft.access.headers)),
                    Row::any(
                        "expire",
                        "number or template",
                        "a number of seconds, or a template that gives one",
                        |draft, value| {
                            draft.expire = text(value)?;
                            Ok(())
                        },
                    ),
                ],
            ),
            Row::object(
                "refresh",
                &[
                    Row::text("url", |draft, url| draft.refresh.url = url.trim().to_owned()),
                    Row::text("body", |draft, body| draft.refresh.body = body.to_owned()),
                    Row::any("headers", "object", HEADERS, |draft, value| headers(value, &mut draft.refresh.headers)),
                ],
            ),
        ],
    )
    .of_sink()
    .doc(
        "How an access token is fetched: by a POST of `access.body` to `access.url`, which returns a JSON object. \
     Then `headers` of the sink are templates over that object, such as `Bearer {{.access_token}}`. `access.expire` \
     is the time in seconds after which the token is renewed, or a template such as `{{.expires_in}}`: by a POST to \
     `refresh.url`, whose `headers` and `body` are templates over the previous response, or without it by `access` \
     again",
    ),
    tls_properties::insecure_skip_verify(),
    tls_properties::certification_path(),
    tls_properties::private_key_path(),
    tls_properties::root_ca_path(),
    tls_properties::certification_raw(),
    tls_properties::private_key_raw(),
    tls_properties::root_ca_raw(),
    tls_properties::tls_min_version(),
    cache::enable_cache(),
    cache::memory_cache_threshold(),
    cache::max_disk_cache(),
    cache::buffer_page_size(),
    cache::resend_interval(),
    cache::clean_cache_at_stop(),
    cache::resend_alter_queue(),
    cache::resend_priority(),
    cache::resend_indicator_field(),
];

/// A property that cannot be used.
#[derive(Debug, thiserror::Error)]
enum RestError {
    #[error("url is required: set it to an address such as https://example.org/hook")]
    NoUrl,
    #[error("Invalid url {url:?}, url format should be http://xxx or https://xxx")]
    Url { url: String },
    #[error("Not supported HTTP method {0}.")]
    Method(String),
    #[error("Invalid body type value {0}.")]
    BodyType(String),
    #[error("fileFieldName must be set with bodyType formdata: it names the field that holds the message")]
    NoFileField,
    #[error("{property}: {error}")]
    Template { property: String, error: crate::format::template::TemplateError },
}

impl Draft {
    /// Makes the settings; errors go to `found`.
    pub(super) fn settle(self, found: &mut Findings) -> RestSink {
        let Draft {
            mut sink,
            method,
            url,
            body_type,
            headers,
            form_data,
            access,
            expire,
            refresh,
            tls,
            cache,
            mut retry,
        } = self;
        let has_oauth = !access.url.is_empty();
        let mut parts = Vec::new();
        let mut dynamic = |found: &mut Findings, property: &str, top: &str, text: &str, required: bool| match Part::new(
            property, text,
        ) {
            Ok(part) => {
                parts.push(if required { part } else { part.optional() });
                Dynamic::Part(parts.len() - 1)
            }
            Err(error) => {
                found.refuse(top, RestError::Template { property: property.to_owned(), error });
                Dynamic::Part(0)
            }
        };
        if url.is_empty() {
            if !found.has_fault("url") {
                found.refuse("url", RestError::NoUrl);
            }
        } else if is_template(&url) {
            // The server may be named before the first template.
            let written = url.split("{{").next().unwrap_or_default();
            let whole = written.splitn(4, '/').count() == 4;
            sink.origin = if whole { uri(written).as_ref().and_then(origin) } else { None };
            sink.url = dynamic(found, "url", "url", &url, true).of();
        } else {
            sink.origin = uri(&url).as_ref().and_then(origin);
            if sink.origin.is_none() {
                found.refuse("url", RestError::Url { url: url.clone() });
            }
            sink.url = Dynamic::Fixed(url);
        }
        sink.method = if is_template(&method) {
            dynamic(found, "method", "method", &method, true).of()
        } else {
            let known = Method::parse(&method);
            if known.is_none() {
                found.refuse("method", RestError::Method(method.to_uppercase()));
            }
            Dynamic::Fixed(known.unwrap_or_default())
        };
        sink.body_type = if is_template(&body_type) {
            dynamic(found, "bodyType", "bodyType", &body_type, true).of()
        } else if body_type.is_empty() {
            let without = matches!(sink.method, Dynamic::Fixed(Method::Get | Method::Head));
            if without && found.faults.is_empty() {
                let message = "a get request has no body, so that results are not sent: set method to post";
                found.warnings.push(Warning::other("method", message));
            }
            Dynamic::Fixed(if without { BodyType::None } else { BodyType::Json })
        } else {
            let known = BodyType::parse(&body_type);
            if known.is_none() {
                found.refuse("bodyType", RestError::BodyType(body_type.clone()));
            }
            Dynamic::Fixed(known.unwrap_or_default())
        };
        let mut of_token = Vec::new();
        for (name, text) in headers {
            let value = match is_template(&text) {
                true if has_oauth => {
                    of_token.push((name, text));
                    continue;
                }
                true => dynamic(found, &format!("headers.{name}"), "headers", &text, false).of(),
                false => Dynamic::Fixed(text),
            };
            sink.headers.push((name, value));
        }
        for (name, text) in form_data {
            let value = match is_template(&text) {
                true => dynamic(found, &format!("formData.{name}"), "formData", &text, false).of(),
                false => Dynamic::Fixed(text),
            };
            sink.form.fields.push((name, value));
        }
        if sink.body_type == Dynamic::Fixed(BodyType::FormData) && sink.form.file.is_empty() {
            found.refuse("fileFieldName", RestError::NoFileField);
        }
        sink.addressing = (!parts.is_empty()).then_some(Addressing { parts, each_row: false });
        if has_oauth {
            sink.oauth = oauth(access, &expire, refresh, of_token, found);
        }
        // Without TLS, certificates need not be read.
        let plain = sink.origin.is_some()
            && sink.origin.iter().chain(sink.oauth.iter().flat_map(OAuth::servers)).all(|server| !server.secure);
        if !plain || tls != TlsDraft::default() {
            sink.tls = tls.client(found);
        }
        retry.max = retry.max.max(retry.initial);
        sink.retry = retry;
        sink.cache = cache.settle(sink.queue, found);
        sink
    }
}

/// The property `oAuth`; `headers` are those headers of the sink that use the token server's answer.
fn oauth(
    access: TokenDraft,
    expire: &str,
    refresh: TokenDraft,
    headers: Vec<(String, String)>,
    found: &mut Findings,
) -> Option<OAuth> {
    let part = |found: &mut Findings, property: String, top: &str, text: &str| match Part::new(&property, text) {
        Ok(part) => Some(part),
        Err(error) => {
            found.refuse(top, RestError::Template { property, error });
            None
        }
    };
    let parts = |found: &mut Findings, place: &str, top: &str, headers: Vec<(String, String)>| {
        let made = headers.into_iter().map(|(name, text)| {
            let part = part(found, format!("{place}.{name}"), top, &text)?;
            Some((name, part))
        });
        made.collect::<Option<Vec<_>>>()
    };
    let request = |found: &mut Findings, name: &str, draft: TokenDraft| {
        let Some(origin) = token_server(&draft.url) else {
            found.refuse("oAuth", RestError::Url { url: draft.url });
            return None;
        };
        let body = match draft.body.is_empty() {
            true => None,
            false => Some(part(found, format!("oAuth.{name}.body"), "oAuth", &draft.body)?),
        };
        let headers = parts(found, &format!("oAuth.{name}.headers"), "oAuth", draft.headers)?;
        Some(TokenRequest { url: draft.url, origin, headers, body })
    };
    if headers.is_empty() {
        let message =
            "no header uses the token: set headers, such as {\"Authorization\": \"Bearer {{.access_token}}\"}";
        found.warnings.push(Warning::other("oAuth", message));
    }
    let access = request(found, "access", access);
    let refresh = (!refresh.url.is_empty()).then(|| request(found, "refresh", refresh)).flatten();
    let expire = match expire.trim() {
        "" => None,
        expire => Some(part(found, "oAuth.access.expire".to_owned(), "oAuth", expire)?),
    };
    Some(OAuth { access: access?, refresh, expire, headers: parts(found, "headers", "headers", headers)? })
}

/// Characters that a URL must escape.
const UNSAFE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// A URL made by a user or a template, with the necessary escapes.
pub(super) fn uri(url: &str) -> Option<Uri> {
    utf8_percent_encode(url, UNSAFE).to_string().parse().ok()
}

/// The server of an HTTP URL.
pub(super) fn origin(uri: &Uri) -> Option<Origin> {
    let secure = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    (!host.is_empty()).then_some(Origin { secure, host, port })
}

/// A value that can be written as a text.
fn text(value: &Json) -> Result<String, Wrong> {
    match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => Ok(number.to_string()),
        Json::Bool(flag) => Ok(flag.to_string()),
        _ => Err(Wrong::Value),
    }
}

fn texts(value: &Json) -> Result<Vec<(String, String)>, Wrong> {
    let members = value.as_object().ok_or(Wrong::Value)?;
    members.iter().map(|(name, value)| Ok((name.clone(), text(value)?))).collect()
}

fn headers(value: &Json, to: &mut Vec<(String, String)>) -> Result<(), Wrong> {
    for (name, text) in texts(value)? {
        let fits = HeaderName::from_bytes(name.as_bytes()).is_ok()
            && (is_template(&text) || HeaderValue::from_str(&text).is_ok());
        if !fits {
            return Err(Wrong::Value);
        }
        to.push((name, text));
    }
    Ok(())
}

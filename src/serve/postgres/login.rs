//! How a client shows that it has a password: SCRAM-SHA-256 (RFC 5802, 7677), the password itself inside TLS, or `md5`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answers::{Answers, Trouble};
use super::frames::{Broken, Frames, Request};
use crate::config::{Login, Verifier, md5_answer, same};
use crate::serve::accounts::{Accounts, Principal};

const MECHANISM: &str = "SCRAM-SHA-256";
/// Codes of `AuthenticationRequest`.
const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Why there is no session.
pub(super) enum Refusal {
    Broken(Broken),
    Trouble(Trouble),
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Protocol(message) => Self::Trouble(Trouble::new("08P01", message)),
            broken => Self::Broken(broken),
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(Broken::Io(error))
    }
}

fn wrong(user: &str) -> Refusal {
    Refusal::Trouble(Trouble::new("28P01", format!("password authentication failed for user \"{user}\"")))
}

fn malformed(what: &str) -> Refusal {
    Refusal::Trouble(Trouble::new("08P01", format!("malformed SCRAM message: {what}")))
}

/// Lets `user` in, or says why not.
pub(super) async fn log_in<R, W>(
    user: &str,
    is_secured: bool,
    accounts: &Arc<Accounts>,
    frames: &mut Frames<R>,
    answers: &mut Answers<W>,
) -> Result<Principal, Refusal>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let principal = if let Some(anybody) = accounts.anybody(user) {
        anybody
    } else {
        let (verifier, login, md5) = accounts.verifier(user);
        match (login, md5) {
            (Login::Password, _) if is_secured => {
                answers.authentication(CLEARTEXT, &[]);
                answers.send().await?;
                let password = text(&secret(frames).await?)?;
                accounts.check(user, &password).await.map_err(|_| wrong(user))?;
            }
            (Login::Password, _) => {
                let text = format!("user \"{user}\" may send the password through TLS only");
                return Err(Refusal::Trouble(Trouble::new("28000", text).hint("connect with sslmode=require")));
            }
            (Login::Md5, Some(md5)) => {
                let salt: [u8; 4] = rand::random();
                answers.authentication(MD5, &salt);
                answers.send().await?;
                let answer = text(&secret(frames).await?)?;
                if !same(answer.as_bytes(), md5_answer(&md5, salt).as_bytes()) {
                    return Err(wrong(user));
                }
            }
            _ => scram(user, &verifier, frames, answers).await?,
        }
        // The account may be gone by now.
        accounts.principal(user).ok_or_else(|| wrong(user))?
    };
    answers.authentication(OK, &[]);
    Ok(principal)
}

async fn secret<R: AsyncRead + Unpin>(frames: &mut Frames<R>) -> Result<bytes::Bytes, Refusal> {
    match frames.next().await? {
        Some(Request::Secret(secret)) => Ok(secret),
        Some(_) => Err(Refusal::Trouble(Trouble::new("08P01", "expected password response"))),
        None => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
    }
}

/// A text that may end in a zero byte.
fn text(bytes: &[u8]) -> Result<String, Refusal> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::Trouble(Trouble::new("22021", "a password must be UTF-8")))
}

async fn scram<R, W>(
    user: &str,
    verifier: &Verifier,
    frames: &mut Frames<R>,
    answers: &mut Answers<W>,
) -> Result<(), Refusal>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    answers.authentication(SASL, format!("{MECHANISM}\0\0").as_bytes());
    answers.send().await?;
    let first = secret(frames).await?;
    // The mechanism's name, a length, and the message.
    let end = first.iter().position(|byte| *byte == 0).ok_or_else(|| malformed("no mechanism"))?;
    let (mechanism, rest) = (&first[..end], first.get(end + 5..).ok_or_else(|| malformed("it is cut off"))?);
    if mechanism != MECHANISM.as_bytes() {
        return Err(Refusal::Trouble(Trouble::new(
            "28000",
            "client selected an invalid SASL authentication mechanism",
        )));
    }
    let first = ClientFirst::parse(std::str::from_utf8(rest).map_err(|_| malformed("it is no text"))?)?;
    let nonce = format!("{}{}", first.nonce, STANDARD.encode(rand::random::<[u8; 18]>()));
    let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
    answers.authentication(SASL_CONTINUE, server_first.as_bytes());
    answers.send().await?;
    let last = secret(frames).await?;
    let last = std::str::from_utf8(&last).map_err(|_| malformed("it is no text"))?;
    let (without_proof, proof) = last.rsplit_once(",p=").ok_or_else(|| malformed("there is no proof"))?;
    let proof = STANDARD.decode(proof).map_err(|_| malformed("the proof is not base64"))?;
    let mut parts = without_proof.split(',');
    let binding =
        parts.next().and_then(|part| part.strip_prefix("c=")).ok_or_else(|| malformed("no channel binding"))?;
    let echoed = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or_else(|| malformed("no nonce"))?;
    if binding != STANDARD.encode(first.header) || echoed != nonce {
        return Err(malformed("it does not answer what was asked"));
    }
    let message = format!("{},{server_first},{without_proof}", first.bare);
    if !verifier.is_proven(message.as_bytes(), &proof) {
        return Err(wrong(user));
    }
    let signature = STANDARD.encode(verifier.signature(message.as_bytes()));
    answers.authentication(SASL_FINAL, format!("v={signature}").as_bytes());
    Ok(())
}

/// `n,,n=user,r=nonce`: what a client says first. The user is that of the startup message.
struct ClientFirst<'a> {
    /// The part before the message proper, with its commas.
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(text: &'a str) -> Result<Self, Refusal> {
        let mut commas = text.match_indices(',').map(|(at, _)| at);
        let (first, second) = (commas.next(), commas.next());
        let (Some(first), Some(second)) = (first, second) else { return Err(malformed("no header")) };
        // `y`: the client knows of channel binding, and believes that the server does not, which is so.
        if !matches!(&text[..first], "n" | "y") {
            return Err(Refusal::Trouble(Trouble::new("28000", "channel binding is not offered")));
        }
        let (header, bare) = text.split_at(second + 1);
        let nonce = bare.split(',').find_map(|part| part.strip_prefix("r=")).filter(|nonce| !nonce.is_empty());
        Ok(Self { header, bare, nonce: nonce.ok_or_else(|| malformed("no nonce"))? })
    }
}

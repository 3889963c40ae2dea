"""A mail server for the tests: each mail it takes is a line of JSON on standard output.

    smtp_server.py PORT [--starttls | --tls] [--certificate CERT KEY] [--user USER PASSWORD]

Recipients that begin with `nobody` are refused for good, those that begin with `later` for now.
"""

import argparse
import asyncio
import json
import ssl

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("--starttls", action="store_true")
parser.add_argument("--tls", action="store_true")
parser.add_argument("--certificate", nargs=2)
parser.add_argument("--user", nargs=2)
arguments = parser.parse_args()


class Mailbox:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        if address.startswith("later"):
            return "450 4.2.1 try later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode(),
            "encrypted": session.ssl is not None or arguments.tls,
            "user": session.auth_data.login.decode() if session.authenticated else None,
        }
        print(json.dumps(mail), flush=True)
        return "250 kept"


def authenticate(server, session, envelope, mechanism, data):
    known = LoginPassword(*(word.encode() for word in arguments.user))
    return AuthResult(success=data == known, handled=data == known, auth_data=data)


async def main():
    context = None
    if arguments.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*arguments.certificate)

    def conversation():
        return SMTP(
            Mailbox(),
            tls_context=context if arguments.starttls else None,
            require_starttls=arguments.starttls,
            authenticator=authenticate if arguments.user else None,
            auth_required=arguments.user is not None,
            auth_require_tls=arguments.starttls,
        )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        conversation, "127.0.0.1", arguments.port, ssl=context if arguments.tls else None
    )
    await server.serve_forever()


asyncio.run(main())

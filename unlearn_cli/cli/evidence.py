"""`unlearn certify` and `unlearn verify`."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn_cli.cli.heavy import heavy_imports
from unlearn_cli.cli.options import json_option, refuse_code, refuse_inside, trust_option
from unlearn_cli.safe_text import clean

if TYPE_CHECKING:
    from unlearn_cli.evidence.verify import Check, Evidence
    from unlearn_cli.runs import RunFolder

NOT_VERIFIED = 1
"""Exit code where a check failed."""
CERTIFIED = ("signature", "files", "claims")
"""Checks without which nothing in the run folder is loaded."""
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(short_help="Write evidence of a run: hashes, signed.")
@click.argument("run", metavar="RUN", type=FOLDER)
@click.option("--key", type=FILE, help="Sign with this Ed25519 private key (PEM; extra `sign`).")
@click.option("--rows", is_flag=True, help="Put in salted hashes of the forget rows.")
@click.option("--output", type=FILE, help="Write this file instead of RUN/evidence.json.")
@json_option
def certify(run: Path, key: Path | None, rows: bool, output: Path | None, as_json: bool) -> None:
    """Write a statement about the finished run in the folder RUN, in the form of in-toto.

    It holds the hashes of the model before and after, of the data, the spec and the evaluations,
    the verdict, versions and times. docs/evidence.md says what it proves, and what it does not.

    With --key it is signed (DSSE). A key and its public half come from:
    `openssl genpkey -algorithm ed25519 -out key.pem` and
    `openssl pkey -in key.pem -pubout -out key.pub.pem`.
    """
    from unlearn_cli.evidence import rows as hashing
    from unlearn_cli.evidence import statement as stating
    from unlearn_cli.evidence.signing import sign
    from unlearn_cli.files import write_atomically
    from unlearn_cli.runs import RunFolder

    folder, path = RunFolder.open(run), output or run / stating.FILE
    refuse_inside(path, stating.FILE)
    statement = stating.make_statement(folder)
    stating.refuse_changed(folder)
    if rows:
        salt = secrets.token_bytes(hashing.SALT_BYTES)
        statement = stating.with_rows(statement, stating.forget_rows(folder), salt)
    text = stating.dump(statement)
    write_atomically(path, stating.dump(sign(text.encode(), key)) if key else text)
    click.echo(json.dumps({"evidence": str(path), "signed": bool(key)}) if as_json else str(path))


@click.command(short_help="Hold evidence against the run folder.")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--run", type=FOLDER, help="The run folder, where FILE does not lie in it.")
@click.option("--public-key", type=FILE, help="Of whoever should have signed (PEM; extra `sign`).")
@click.option("--row", "rows", multiple=True, metavar="TEXT", help="Was this to be forgotten?")
@click.option("--evaluate", is_flag=True, help="Compute the figures again, and compare.")
@trust_option
@json_option
def verify(
    file: Path,
    run: Path | None,
    public_key: Path | None,
    rows: tuple[str, ...],
    evaluate: bool,
    trusted: bool,
    as_json: bool,
) -> int:
    """Check what `unlearn certify` wrote to FILE: form, signature, the hash of every file, that all
    else it says is what the run folder has, and that the verdict follows from the stored figures.
    Nothing is loaded or downloaded.

    The text of --row is question and answer, or the turns of a conversation, or the plain text, in
    this order; case and white space are of no account. Exit code 1 where a check failed.
    """
    from unlearn_cli.errors import UsageError
    from unlearn_cli.evidence import verify as verifying

    evidence = verifying.read_evidence(file)
    folder = evidence.run(run)
    if folder is None and (evaluate or not (rows or public_key)):
        hint = "name it with --run, or ask with --row or --public-key alone"
        raise UsageError("there is no run folder around it", where=str(file), hint=hint)
    checks = [*verifying.verify(evidence, folder, public_key, rows)]
    if folder and evaluate and _failed([check for check in checks if check.name in CERTIFIED]):
        why = "the files are not those that were certified"
        checks.append(verifying.Check("evaluation", "not checked", (why,)))
    elif folder and evaluate:
        checks.append(_again(evidence, folder, trusted, as_json))
    _show(checks, as_json)
    return NOT_VERIFIED if _failed(checks) else 0


def _failed(checks: list[Check]) -> bool:
    return any(check.status == "failed" for check in checks)


def _again(evidence: Evidence, run: RunFolder, trusted: bool, as_json: bool) -> Check:
    """Measure the run's model again; only where its files are those that were certified."""
    from unlearn_cli.cli.watch import watching
    from unlearn_cli.evidence.verify import compare_figures
    from unlearn_cli.spec.load import load_spec

    spec = load_spec(str(run.spec))
    refuse_code(spec, trusted)

    with heavy_imports():
        from unlearn_cli.engine.measure import measure

    with watching(as_json) as listener:
        again, _ = measure(spec, model=None, run=run, listener=listener, label="again")
    return compare_figures(evidence, run.evaluations(), again)


def _show(checks: list[Check], as_json: bool) -> None:
    if as_json:
        found = [vars(check) for check in checks]
        click.echo(json.dumps({"verified": not _failed(checks), "checks": found}, indent=2))
        return
    for check in checks:
        for line in check.details:
            click.echo(f"{check.status:<12} {check.name:<11} {clean(line)}")

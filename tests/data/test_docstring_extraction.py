"""Paragraphs out of docstrings: every style against hand-written expectations, and dropping near-duplicates."""

import inspect

import pytest

from tlm_hf.data.docstring_extraction import docstring_paragraphs, is_prose, source_docstrings, unique_indices

PROSE = "The sort is stable, which means that rows with equal keys keep the order in which they stood before the call."
OTHER = "When the queue is empty, the caller waits until another thread has put an item into it or the time is over."


def test_numpy_style_keeps_prose_only():
    docstring = f"""Summary line that is too short.

    {PROSE} See :func:`~numpy.linalg.solve` and :class:`.Axes` for **more** on what ``a[0]`` and `b` do [1]_.

    .. versionadded:: 1.2
       This was added in that version and it is not a thing that one would call prose for a reader at all, or is it.

    .. note:: {OTHER}

    Parameters
    ----------
    key, other : str, optional
        {PROSE.replace("sort", "search")}
    short : int
        Too short.

    .. math:: x = y

    ====== ==================================================================================================
    name   {PROSE}
    ====== ==================================================================================================

    The following code shows how it is done by people who have been using it for quite some time now::

        This line is code, although it reads like a sentence that has been written for people who like to read it.

    Examples
    --------
    >>> print(1)
    This line is the output of a doctest, although it reads like a sentence that has been written for people to read it.

    {OTHER.replace("queue", "stack")}

    References
    ----------
    .. [1] A. Author, "{OTHER}"

    {OTHER.replace("queue", "reference")}
    """
    assert docstring_paragraphs(inspect.cleandoc(docstring)) == [
        f"{PROSE} See solve and Axes for more on what a[0] and b do.",
        OTHER,
        PROSE.replace("sort", "search"),
        OTHER.replace("queue", "stack"),
    ]


def test_google_and_sphinx_styles():
    docstring = f"""
    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            {PROSE.split(", ")[0]},
            {PROSE.split(", ")[1]}
        mask: {OTHER}

    - {PROSE.replace("sort", "first")}
    - {PROSE.replace("sort", "second")}

    ```python
    {OTHER}
    ```

    :param int x: {OTHER.replace("queue", "list")}
    :rtype: int
    """
    expected = [
        PROSE,
        OTHER,
        PROSE.replace("sort", "first"),
        PROSE.replace("sort", "second"),
        OTHER.replace("queue", "list"),
    ]
    assert docstring_paragraphs(inspect.cleandoc(docstring)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Too short to count.",
        PROSE.rstrip("."),
        PROSE[0].lower() + PROSE[1:],
        PROSE + " It costs x^2 steps.",
        PROSE + " See https://example.org for it.",
        PROSE.replace("rows", "(rows"),
        " ".join(["Alpha beta gamma delta"] * 8) + ".",
        " ".join(["The a_1 = b_2 is x_3"] * 6) + ".",
        " ".join([PROSE] * 10),
    ],
)
def test_what_is_not_prose(text):
    assert is_prose(PROSE)
    assert not is_prose(text)


def test_a_reference_that_leaves_a_hole_drops_the_paragraph():
    assert docstring_paragraphs(f"{PROSE} The proof is given in [1]_.") == []
    assert docstring_paragraphs(f"{PROSE} For details refer to :ref:`the_guide`.") == []
    assert docstring_paragraphs(f"{PROSE} The proof is known [1]_.") == [f"{PROSE} The proof is known."]


def test_docstrings_come_in_file_order():
    nested = 'try: pass\nexcept E:\n  def f():\n    """one"""\nelse:\n  match x:\n    case 1:\n      class A: """two"""'
    assert source_docstrings(nested.encode()) == ["one", "two"]
    assert source_docstrings(b'"""x"""\0') == []


def test_near_duplicates():
    assert unique_indices([PROSE, OTHER]) == [0, 1]
    assert unique_indices([PROSE, PROSE.upper().replace(",", ";")]) == [0]
    assert unique_indices([PROSE, f"{OTHER} {PROSE}", OTHER]) == [0, 2]
    assert unique_indices([f"{OTHER} {PROSE}", PROSE, OTHER]) == [0]
    assert unique_indices([PROSE, PROSE.replace("stable", "quick").replace("stood", "were")]) == [0]
    assert unique_indices(["Row 1 of 20 is read.", "row 33 of 4 is read", "Up."]) == [0, 2]

<?php

declare(strict_types=1);

namespace Roster\Exception;

/** The request is invalid. */
final class InvalidRequest extends RosterException
{
    /** @param string $field which argument */
    public function __construct(public readonly string $field, string $message)
    {
        parent::__construct("$field: $message");
    }

    /** @internal the same mistake in one of several requests */
    public function within(string $which): self
    {
        return new self("$which.$this->field", substr($this->getMessage(), strlen("$this->field: ")));
    }
}

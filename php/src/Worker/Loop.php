<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Quiet;

/**
 * The event loop of a worker without another: waits for its connection and for what it watches.
 *
 * @internal
 */
final class Loop
{
    /** The pause after a wait that a signal ended. */
    private const SIGNAL_US = 1_000;
    /** The longest pause instead of a wait with a descriptor that select() does not accept: each one fails at once. */
    private const FAILURE_US = 20_000;
    /** What select() failed with, as PHP says it, if a signal came. */
    private const INTERRUPTED = '[4]';

    /** @var array<array{resource, callable}> by stream number */
    private array $watched = [];
    /** @var array<int, mixed> the handled signals, and their previous handlers */
    private array $handlers = [];
    private bool $hadAsync = false;
    /** Why it cannot wait for all that it watches, as it was logged; null: it can. */
    private ?string $failure = null;

    public function __construct(private readonly Logger $log)
    {
    }

    /** @param resource $stream */
    public function watch(mixed $stream, ?callable $serve): void
    {
        unset($this->watched[(int) $stream]);
        if ($serve !== null) {
            $this->watched[(int) $stream] = [$stream, $serve];
        }
    }

    /**
     * Waits for at most this long, and serves what has become readable of what is watched.
     *
     * @param list<resource> $read what else ends the wait when it is readable,
     * @param list<resource> $write or writable
     */
    public function wait(array $read, array $write, float $seconds): void
    {
        $this->watched = array_filter($this->watched, static fn (array $watched) => is_resource($watched[0]));
        $process = getmypid();
        $ready = self::select([...$read, ...array_column($this->watched, 0)], $write, $seconds, $failure);
        $this->report($failure);
        foreach ($ready as $stream) {
            if (getmypid() !== $process) {
                // What served the one before has forked: the rest is its parent's.
                return;
            }
            [, $serve] = $this->watched[(int) $stream] ?? [null, null];
            try {
                $serve !== null && Returned::by('it', $serve($stream));
            } catch (\Throwable $error) {
                $this->log->error('what serves a stream failed: {exception}', ['exception' => $error]);
            }
        }
    }

    /** Logs once that it cannot wait. */
    private function report(?string $failure): void
    {
        if ($failure !== null && $this->failure === null) {
            $this->log->error('streams with too high descriptors are not served: {reason}', ['reason' => $failure]);
        }
        $this->failure = $failure;
    }

    /**
     * @param list<resource> $read
     * @param list<resource> $write
     * @param ?string $failure why it cannot wait for all of them: there is one with a descriptor from 1,024 on
     * @return list<resource> those that can be read: none, too, if a signal has come
     */
    public static function select(array $read, array $write, float $seconds, ?string &$failure = null): array
    {
        $failure = null;
        $us = (int) ($seconds * 1e6);
        if ($read === [] && $write === []) {
            usleep($us);
            return [];
        }
        $readable = self::readable($read, $write, $us);
        if ($readable !== null) {
            return $readable;
        }
        $failure = self::failure();
        if ($failure !== null) {
            // One that it does not accept is to stop no other.
            $readable = array_filter($read, static fn ($stream): bool => (bool) self::readable([$stream], [], 0));
        }
        if (!$readable) {
            usleep($failure === null || $write !== [] ? min($us, self::SIGNAL_US) : min($us, self::FAILURE_US));
        }
        return array_values($readable ?? []);
    }

    /**
     * Whether a stream is writable now.
     *
     * @param resource $stream
     * @param ?string $failure why that cannot be known
     */
    public static function isWritable(mixed $stream, ?string &$failure = null): bool
    {
        [$read, $write] = [[], [$stream]];
        $ready = self::ready($read, $write, 0);
        $failure = $ready === false ? self::failure() : null;
        return (bool) $ready;
    }

    /** Why select() has failed, in a line; null: a signal came. */
    private static function failure(): ?string
    {
        $line = preg_replace('/\s+/', ' ', Quiet::$warning);
        // How to compile PHP is for somebody else.
        return str_contains($line, self::INTERRUPTED) ? null : explode(' --', $line)[0];
    }

    /** @return ?list<resource> those that can be read; null: select() has failed */
    private static function readable(array $read, array $write, int $us): ?array
    {
        return self::ready($read, $write, $us) === false ? null : array_values($read);
    }

    /** Leaves of both those that are ready, and returns how many these are; false: select() has failed. */
    private static function ready(array &$read, array &$write, int $us): int|false
    {
        Quiet::$warning = '';
        return Quiet::run(static function () use (&$read, &$write, $us): int|false {
            $none = null;
            return stream_select($read, $write, $none, intdiv($us, 1_000_000), $us % 1_000_000);
        });
    }

    /** Makes termination signals call this, unless the application handles them itself. */
    public function takeSignals(\Closure $stop): void
    {
        if (!function_exists('pcntl_signal')) {
            return;
        }
        $this->hadAsync = pcntl_async_signals(true);
        foreach ([SIGTERM, SIGINT] as $signal) {
            if (($before = pcntl_signal_get_handler($signal)) === SIG_DFL) {
                $this->handlers[$signal] = $before;
                pcntl_signal($signal, static function (int $signal) use ($stop): void {
                    $stop();
                    // A second interrupt at a terminal means not to wait.
                    $signal === SIGINT && pcntl_signal(SIGINT, SIG_DFL);
                });
            }
        }
    }

    public function giveSignalsBack(): void
    {
        foreach ($this->handlers as $signal => $before) {
            pcntl_signal($signal, $before);
        }
        if (function_exists('pcntl_async_signals')) {
            pcntl_async_signals($this->hadAsync);
        }
        $this->handlers = [];
    }
}

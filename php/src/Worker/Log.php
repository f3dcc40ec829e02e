<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Quiet;
use Roster\Text;
use Roster\Wire\MessagePack;

/** The methods of PSR-3, in all of its versions: logs to the sidecar, or to standard error. */
abstract class Log
{
    /** The limit for levels, and for keys of a context. */
    private const MAX_WORD_BYTES = 64;
    private const MAX_MESSAGE_BYTES = 16 << 10;
    private const MAX_CONTEXT_BYTES = 64 << 10;
    private const MAX_CONTEXT_DEPTH = 16;

    private const SKIPPED = '{count} messages before this were left out: the sidecar did not read';

    private const JSON = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE
        | JSON_PARTIAL_OUTPUT_ON_ERROR;

    /** How much is kept until the sidecar has accepted the worker. */
    private const MAX_KEPT_BYTES = 256 << 10;

    private int $skipped = 0;
    /** @var list<array{string, array{string, string, object}}> what was logged before, and when */
    private array $kept = [];
    private int $keptBytes = 0;
    /** Which process keeps it, and sends it at its end. */
    private ?int $process = null;
    /** Whether what was kept has been sent at the end: nothing that is kept now would be. */
    private bool $isEnding = false;

    /** @param \Closure(): (Line|false|null) $line to the sidecar; false: it is not accepted yet; null: there is none */
    public function __construct(private readonly \Closure $line)
    {
    }

    /** @param string|\Stringable $message */
    public function emergency($message, array $context = []): void
    {
        $this->log('emergency', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function alert($message, array $context = []): void
    {
        $this->log('alert', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function critical($message, array $context = []): void
    {
        $this->log('critical', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function error($message, array $context = []): void
    {
        $this->log('error', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function warning($message, array $context = []): void
    {
        $this->log('warning', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function notice($message, array $context = []): void
    {
        $this->log('notice', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function info($message, array $context = []): void
    {
        $this->log('info', $message, $context);
    }

    /** @param string|\Stringable $message */
    public function debug($message, array $context = []): void
    {
        $this->log('debug', $message, $context);
    }

    /**
     * Logging never throws or blocks the worker: what the sidecar does not accept is dropped, and counted.
     *
     * @param string $level
     * @param string|\Stringable $message
     */
    public function log($level, $message, array $context = []): void
    {
        $entry = [
            self::text($level, self::MAX_WORD_BYTES), self::text($message, self::MAX_MESSAGE_BYTES), self::plain($context),
        ];
        $line = ($this->line)();
        if ($line === false && !$this->isEnding) {
            $this->keep($entry);
            return;
        }
        $line = $line ?: null;
        $this->flush($line);
        $line === null ? self::print(date('c'), ...$entry) : $this->send($line, ...$entry);
    }

    /**
     * Sends what was logged before the sidecar had accepted the worker.
     *
     * @internal
     */
    public function flush(?Line $line): void
    {
        // What a parent has kept, it sends itself.
        if ($this->kept === [] || $this->process !== getmypid()) {
            return;
        }
        [$kept, $this->kept, $this->keptBytes] = [$this->kept, [], 0];
        // What is left out came after these.
        [$skipped, $this->skipped] = [$this->skipped, 0];
        foreach ($kept as [$time, $entry]) {
            $line === null ? self::print($time, ...$entry) : $this->send($line, ...$entry);
        }
        $this->skipped += $skipped;
        if ($line === null && $this->skipped > 0) {
            [$this->skipped, $skipped] = [0, ['count' => $this->skipped]];
            self::print(date('c'), 'warning', self::SKIPPED, (object) $skipped);
        }
    }

    /** @param array{string, string, object} $entry */
    private function keep(array $entry): void
    {
        $bytes = strlen($entry[1]) + strlen((string) json_encode($entry[2], self::JSON)) + self::MAX_WORD_BYTES;
        if ($this->keptBytes + $bytes > self::MAX_KEPT_BYTES) {
            $this->skipped++;
            return;
        }
        $this->kept[] = [date('c'), $entry];
        $this->keptBytes += $bytes;
        if ($this->process === null) {
            $this->process = getmypid();
            register_shutdown_function(function (): void {
                $this->isEnding = true;
                $this->flush($this->kept === [] ? null : (($this->line)() ?: null));
            });
        }
    }

    private function send(Line $line, string $level, string $message, object $context): void
    {
        if ($line->isFull()) {
            $this->skipped++;
            return;
        }
        if ($this->skipped > 0) {
            [$this->skipped, $skipped] = [0, ['count' => $this->skipped]];
            $line->send(['cmd' => 'worker-log', 'level' => 'warning', 'message' => self::SKIPPED, 'context' => $skipped]);
        }
        $line->send(['cmd' => 'worker-log'] + compact('level', 'message', 'context'));
    }

    /** Its beginning; of what cannot be made a text, why. */
    private static function text(mixed $of, int $bytes): string
    {
        try {
            return Text::cut(Quiet::run(static fn (): string => (string) $of), $bytes);
        } catch (\Throwable $why) {
            return Text::cut(get_debug_type($of) . ', left out: ' . $why->getMessage(), $bytes);
        }
    }

    /** The parts of a context that can be sent. */
    private static function plain(array $context): object
    {
        $plain = [];
        $left = self::MAX_CONTEXT_BYTES;
        foreach ($context as $key => $value) {
            if ($value instanceof \Throwable) {
                $value = ['class' => Text::className($value), 'message' => Text::cut($value->getMessage(), 8 << 10)]
                    + ['code' => $value->getCode(), 'file' => $value->getFile(), 'line' => $value->getLine()];
            }
            $room = $left;
            $key = Text::cut((string) $key, self::MAX_WORD_BYTES);
            try {
                $plain[$key] = MessagePack::unpack(MessagePack::pack($value, self::MAX_CONTEXT_DEPTH, $room));
            } catch (\Throwable $why) {
                $plain[$key] = get_debug_type($value) . ', left out: ' . Text::cut($why->getMessage(), 200);
                $room = $left - 512;
            }
            if (($left = $room - self::MAX_WORD_BYTES) <= 0) {
                break;
            }
        }
        return (object) $plain;
    }

    private static function print(string $time, string $level, string $message, object $context): void
    {
        [$fields, $rest] = [[], []];
        foreach ((array) $context as $key => $value) {
            if (str_contains($message, '{' . $key . '}')) {
                $fields['{' . $key . '}'] = is_string($value) ? $value : json_encode($value, self::JSON);
            } else {
                $rest[$key] = $value;
            }
        }
        $text = strtr($message, $fields) . ($rest === [] ? '' : ' ' . json_encode($rest, self::JSON));
        $line = "$time $level: " . str_replace(["\r", "\n"], ' ', $text);
        // It may be closed, or full.
        Quiet::run(static fn () => file_put_contents('php://stderr', "$line\n"));
    }
}

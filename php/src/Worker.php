<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\Disconnected;
use Roster\Exception\InvalidRequest;
use Roster\Exception\Overloaded;
use Roster\Wire\MessagePack;
use Roster\Wire\Scanner;
use Roster\Worker\Channel;
use Roster\Worker\Commands;
use Roster\Worker\Connections;
use Roster\Worker\Death;
use Roster\Worker\Dialer;
use Roster\Worker\Environment;
use Roster\Worker\Line;
use Roster\Worker\Link;
use Roster\Worker\Logger;
use Roster\Worker\Loop;
use Roster\Worker\Performers;
use Roster\Worker\Requests;
use Roster\Worker\Returned;
use Roster\Worker\Services;
use Roster\Worker\Session;
use Roster\Worker\Task;

/**
 * A process that offers services: a Roster master, started by a sidecar or otherwise.
 *
 * It handles one call at a time. A method that returns many values, by a generator or another `Traversable`, takes
 * turns with others. What a method throws is its caller's error and affects nothing else.
 */
final class Worker
{
    /** How long calls under way may take when an unsupervised worker leaves. */
    private const DRAIN_SECONDS = 5.0;
    /** How long a sidecar may take to accept its own worker, or to read what it is sent. */
    private const CHANNEL_TIMEOUT_SECONDS = 10.0;
    /** How soon to retry what there is no room for, if nothing signals that there is. */
    private const RETRY_SECONDS = 0.01;

    private const STREAM_COMMANDS = ['ping', 'list', 'callback', 'call', 'close', 'stream-taken'];
    /** The tunnel's own commands, and those to join or leave other registers: it stays at its own. */
    private const IGNORED_COMMANDS = [
        'auth', 'auth-success', 'auth-failed', 'data', 'end', 'error', 'pong', 'stream-window', 'register', 'remove',
    ];

    private readonly Link $link;
    private readonly Logger $log;
    private readonly Services $services;
    private readonly Commands $commands;
    private readonly Performers $performers;
    private readonly Loop $loop;
    /** What arrived before it was requested. */
    private array $received = [];
    private ?Session $session = null;
    /** @var ?callable */
    private $onMessage = null;
    /** @var ?array<resource> */
    private ?array $listeners = null;
    private ?Connections $connections = null;
    private ?Requests $requests = null;
    private bool $isTicking = false;
    private bool $hasBegun = false;
    private bool $isRunning = false;
    /** Since when it is leaving, by hrtime(). */
    private ?int $leftAt = null;
    private bool $isOver = false;

    /** @param string $id by which the sidecar and others know it */
    private function __construct(
        private readonly Channel|Dialer $to,
        #[\SensitiveParameter] string $token,
        public readonly string $id,
        private readonly array $params,
    ) {
        $this->log = new Logger($this->lineOfLog(...));
        $this->link = new Link($to, $token, $id, $this->log);
        $this->loop = new Loop($this->log);
        $this->services = new Services();
        $this->performers = new Performers($this->sendWhenRead(...));
        $this->commands = new Commands($id, fn (): array => $this->session?->tasks() ?? []);
    }

    /**
     * This process as a worker of a sidecar: one of a `[[worker]]`.
     *
     * @throws InvalidRequest if it was not started by a sidecar
     */
    public static function fromEnvironment(): self
    {
        $channel = new Channel(Environment::channel());
        return new self($channel, '', Environment::worker(), Environment::params());
    }

    /**
     * An unsupervised worker. It connects when it runs, and again whenever the connection is lost.
     *
     * @param string $address of the register: `unix:///path`, `tcp://host:port` or `tls://host:port`
     * @param string $token the token for the register: from a file or the environment, not from the source
     * @param ?string $ca a PEM file with the authorities that may sign its certificate; null: those of this machine
     * @throws InvalidRequest if there is no token, or white space around it
     */
    public static function connect(string $address, #[\SensitiveParameter] string $token, ?string $ca = null): self
    {
        if ($token === '') {
            $where = 'the register\'s are in the file `[register] tokens`, else in `register.token` in `[shared] state`';
            throw new InvalidRequest('token', "it is empty; $where");
        }
        if ($token !== trim($token)) {
            throw new InvalidRequest('token', 'there is white space around it, such as the end of a line: trim() it');
        }
        return new self(new Dialer($address, $ca), $token, bin2hex(random_bytes(16)), []);
    }

    /** The `params` of the `[[worker]]`. */
    public function params(): array
    {
        return $this->params;
    }

    /**
     * Offers the public methods of an object as a service, replacing one with the same name.
     *
     * @param array<mixed> $metadata what callers may select by, such as `version`
     */
    public function offer(string $name, object $service, array $metadata = []): void
    {
        $this->services->offer($name, $service, $metadata);
        if ($this->session !== null && !$this->session->isLeaving()) {
            $this->session->line->send(['cmd' => 'register']);
        }
    }

    /**
     * Registers a command that the sidecar may send, which is answered like a call. `ping` and `status` are built in.
     *
     * @param callable(mixed): mixed $command gets the command's data
     */
    public function onCommand(string $name, callable $command): void
    {
        $this->commands->add($name, $command);
    }

    /**
     * Receives what others of its group send: the data, and the sender. Broadcasts of an administrator have a null
     * sender.
     *
     * @param callable(mixed, ?string): void $take
     */
    public function onMessage(callable $take): void
    {
        $this->onMessage = $take;
    }

    /**
     * Performs jobs of a queue of the sidecar's, which hands them to this process as they come, one after the other. A job whose
     * callable returns is done; one that throws is tried again later; `JobReleased` gives it back, `JobBuried` has it die.
     *
     * Without a callable, the job's name is a class, as with php-resque: a new object finds `$args`, `$job` and `$queue` in
     * itself, and its `setUp()`, `perform()` and `tearDown()` are called.
     *
     * @param ?callable(Job): mixed $perform
     * @param int $concurrency how many jobs are handed to this process at once, the least that any of its queues has here: it
     *     performs them one after the other. More than one is for jobs that are all quick: they wait behind a slow one
     * @param ?int $weight from 1 to 100: one of 3 gives three times as many jobs as one of 1 while both have some; null: 1
     * @throws InvalidRequest if no sidecar has started this process, the weight is another, or the queue is several: `*`, or
     *     names with commas
     * @throws Disconnected if it is gone
     */
    public function perform(
        string $queue,
        ?callable $perform = null,
        int $concurrency = 1,
        ?int $weight = null,
    ): void {
        if (strpbrk($queue, '*,') !== false) {
            $what = str_contains($queue, '*') ? 'does not stand for all queues' : 'is several queues';
            $cure = 'call perform() for each of them, with a `weight` for how often it has its turn';
            throw new InvalidRequest('queue', '`' . Text::cut($queue, 200) . "` $what: $cure");
        }
        if ($weight !== null && ($weight < 1 || $weight > 100)) {
            throw new InvalidRequest('weight', 'it is from 1 to 100');
        }
        if (!$this->isSupervised()) {
            throw new InvalidRequest('worker', 'no sidecar has started this process, so nobody hands it jobs');
        }
        $this->performers->add($queue, $perform);
        $weights = $weight === null ? [] : ['weight' => $weight];
        $this->join()->send(['cmd' => 'worker-perform', 'queue' => $queue, 'atOnce' => $concurrency] + $weights);
    }

    /**
     * Sends something to the sidecar, for clients that watch the messages of masters.
     *
     * @throws InvalidRequest if it cannot be sent, or this process was not started by a sidecar
     * @throws Overloaded if the sidecar does not read for ten seconds
     * @throws Disconnected if it is gone
     */
    public function send(mixed $data): void
    {
        $this->sendMessage('worker-send', $data);
    }

    /**
     * Sends something to the other workers of its group.
     *
     * @throws InvalidRequest if it cannot be sent, or this process was not started by a sidecar
     * @throws Overloaded if the sidecar does not read for ten seconds
     * @throws Disconnected if it is gone
     */
    public function broadcast(mixed $data): void
    {
        $this->sendMessage('worker-broadcast', $data);
    }

    /**
     * A PSR-3 logger that writes to the sidecar; to standard error if this process is not supervised.
     *
     * @return Logger with the package psr/log a `Psr\Log\LoggerInterface`
     */
    public function log(): Logger
    {
        return $this->log;
    }

    /**
     * The sockets that this process inherits from `listen`, non-blocking.
     *
     * @return array<resource> by name: that of a port is its number
     */
    public function listeners(): array
    {
        return $this->listeners ??= Environment::listeners();
    }

    /**
     * Makes the sidecar listen on an address that `may_listen` of its `[[worker]]` allows, until the sidecar ends: all
     * processes of the group that request the same one share it. Requires the extension sockets.
     *
     * @param string $address `tcp://host:port` or `unix:///path`
     * @return resource a non-blocking listening socket
     * @throws InvalidRequest with the reason, if that is impossible
     * @throws Overloaded if the sidecar does not answer within ten seconds, and each time after that
     * @throws Disconnected if it is gone
     */
    public function listen(string $address): mixed
    {
        return ($this->requests ??= new Requests(Environment::requests()))->listen($address);
    }

    /**
     * Makes `run()` serve each connection that the sidecar accepts for this process, of a `[[worker]]` with `accept =
     * "sidecar"`. Requires the extension sockets.
     *
     * @param callable(resource, array{listener?: string, peer?: string}): void $serve gets a blocking connection, and
     *     the listener and the peer that it came from
     */
    public function onConnection(callable $serve): void
    {
        $this->connections = new Connections(Environment::connections(), $serve(...), $this->log);
        $this->loop->watch($this->connections->stream, $this->serveConnections(...));
    }

    /**
     * Reports that the worker is ready for work: for `ready = "message"`.
     *
     * @throws Disconnected if the sidecar that started it is gone
     */
    public function ready(): void
    {
        if ($this->isSupervised()) {
            $this->join()->send(['cmd' => 'worker-ready']);
        }
    }

    /**
     * Makes `run()` call something whenever a stream is readable, or a listening socket has a connection; null: no
     * more.
     *
     * @param resource $stream
     * @param ?callable(resource): void $serve
     */
    public function watch(mixed $stream, ?callable $serve): void
    {
        $this->loop->watch($stream, $serve);
    }

    /**
     * Works until it is stopped. SIGTERM stops it if PHP has the extension pcntl.
     *
     * @throws Disconnected if the sidecar that started it is gone
     */
    public function run(): void
    {
        if ($this->isRunning) {
            throw new \LogicException('the worker runs already');
        }
        $this->isRunning = true;
        // Output that nobody reads any more must not end a worker.
        $ignored = ignore_user_abort(true);
        $this->loop->takeSignals($this->stop(...));
        try {
            while (($seconds = $this->tick()) !== null) {
                $this->wait($seconds);
            }
        } finally {
            $this->loop->giveSignalsBack();
            ignore_user_abort((bool) $ignored);
            $this->isRunning = false;
        }
    }

    /**
     * The stream for an event loop to watch, calling `tick()` when it is readable: a different one after each
     * reconnection.
     *
     * @return ?resource null while there is no connection
     */
    public function stream(): mixed
    {
        return $this->link->stream();
    }

    /**
     * Does what there is to do, instead of `run()`, without waiting for anything but methods.
     *
     * @return ?float after how many seconds it must be called again, even if nothing is readable; null: the worker has
     *     ended
     * @throws Disconnected if the sidecar that started it is gone
     */
    public function tick(): ?float
    {
        // Called from within a method, which then waits in a fiber.
        if ($this->isTicking) {
            return self::RETRY_SECONDS;
        }
        $this->isTicking = true;
        if (!$this->hasBegun) {
            $this->hasBegun = true;
            $this->connections === null && Environment::hasConnections() && $this->log->warning(
                'the sidecar hands this worker connections, and nobody takes them: onConnection() was not called',
            );
            $this->isSupervised() && Death::report(fn (): ?Session => $this->session);
        }
        try {
            return $this->isOver ? null : $this->advance();
        } catch (Disconnected $end) {
            $this->end();
            return $this->leftAt === null ? throw $end : null;
        } finally {
            $this->isTicking = false;
        }
    }

    /** Accepts no more calls, and makes `run()` or `tick()` end when those under way have ended. */
    public function stop(): void
    {
        $this->leftAt ??= hrtime(true);
    }

    /** @return Line|false|null false: the sidecar has not accepted the worker yet, which the log does not wait for */
    private function lineOfLog(): Line|false|null
    {
        if (!$this->isSupervised() || $this->isOver) {
            return null;
        }
        try {
            if ($this->link->line() === null) {
                array_push($this->received, ...$this->link->receive(true));
            }
            return $this->link->line() === null ? false : $this->join();
        } catch (Disconnected) {
            return null;
        }
    }

    private function isSupervised(): bool
    {
        return $this->to instanceof Channel;
    }

    private function advance(): ?float
    {
        [$received, $this->received] = [$this->received, []];
        array_push($received, ...$this->link->receive($this->session?->hasRoom() ?? true));
        $line = $this->link->line();
        if ($this->session?->line !== $line) {
            $this->session?->end();
            $onDone = $this->commands->count(...);
            $this->session = $line ? new Session($line, $this->services, $this->log, $onDone) : null;
            $line === null || $this->log->flush($line);
        }
        if ($this->session === null) {
            if ($this->leftAt === null) {
                return $this->link->patience();
            }
            $this->end();
            return null;
        }
        foreach ($received as [$message, $bytes]) {
            $this->hear($message, $bytes);
        }
        if ($this->leftAt !== null) {
            $this->session->leave();
            $this->connections?->takeNoMore();
        }
        $isBusy = $this->session->work();
        if ($this->session->hasLeft() && !$this->awaitsConnections() || $this->isLate()) {
            $this->end();
            return null;
        }
        return match (true) {
            $isBusy, $line->hasMore() && $this->session->hasRoom(), $line->end() !== null => 0.0,
            !$line->isWritten() || $this->leftAt !== null => self::RETRY_SECONDS,
            default => $this->link->patience(),
        };
    }

    private function wait(float $seconds): void
    {
        [$stream, $line] = [$this->link->stream(), $this->link->line()];
        $read = $stream === null || $this->session?->hasRoom() === false ? [] : [$stream];
        $write = $line === null || $line->isWritten() ? [] : [$stream];
        if ($this->leftAt === null) {
            $this->loop->wait($read, $write, $seconds);
            return;
        }
        $handed = $this->awaitsConnections() ? [$this->connections->stream] : [];
        $ready = Loop::select([...$read, ...$handed], $write, $seconds);
        // One at a time: however many arrive, the sidecar's messages are read in between.
        if ($handed !== [] && in_array($handed[0], $ready, true)) {
            $this->connections->serve();
        }
    }

    /** Whether the sidecar may have handed it connections that `run()` has not served yet. */
    private function awaitsConnections(): bool
    {
        return $this->isRunning && $this->connections?->isOver() === false;
    }

    private function serveConnections(): void
    {
        $this->connections->serve();
        if ($this->connections->isOver()) {
            $this->loop->watch($this->connections->stream, null);
        }
    }

    private function isLate(): bool
    {
        // A sidecar has its own deadline for its workers.
        $drain = $this->isSupervised() ? INF : self::DRAIN_SECONDS;
        return $this->leftAt !== null && (hrtime(true) - $this->leftAt) / 1e9 > $drain;
    }

    private function end(): void
    {
        $this->isOver = true;
        $this->session?->end();
        $this->session = null;
        $this->link->close();
    }

    /** @param array<mixed> $message */
    private function hear(array $message, int $bytes): void
    {
        [$command, $data] = [$message['cmd'], $message['data'] ?? null];
        if ($this->isSupervised() && $command === 'worker-stop') {
            $this->stop();
        } elseif ($this->isSupervised() && $command === 'worker-command') {
            $this->command($message, $data, $bytes);
        } elseif ($this->isSupervised() && $command === 'worker-message') {
            $this->message($data, is_string($message['from'] ?? null) ? $message['from'] : null, $bytes);
        } elseif (in_array($command, self::STREAM_COMMANDS, true)) {
            $this->session->hear($message, $bytes);
        } elseif (!in_array($command, self::IGNORED_COMMANDS, true)) {
            $this->message($message, null, $bytes);
        }
    }

    /** @param array<mixed> $message */
    private function command(array $message, mixed $data, int $bytes): void
    {
        $uuid = Session::uuid($message);
        $name = is_string($message['name'] ?? null) ? $message['name'] : '';
        if ($uuid === null) {
            return;
        }
        $run = fn () => $name === Performers::COMMAND
            ? $this->performJob($data)
            : $this->commands->run($name, $data);
        $task = new Task($uuid, 'the command ' . Text::cut($name, 200), $run, $bytes, false);
        if ($this->leftAt !== null && !Commands::isBuiltIn($name)) {
            $this->session->refuse($task, 'the worker is leaving');
        } else {
            $this->session->take($task);
        }
    }

    /** @return ?string what it returned, as JSON, if that is kept */
    private function performJob(mixed $data): ?string
    {
        $this->commands->countJob();
        return $this->performers->perform($data);
    }

    private function message(mixed $data, ?string $from, int $bytes): void
    {
        if ($this->onMessage !== null) {
            $what = 'a message' . ($from === null ? '' : ' from ' . Text::cut($from, 200));
            $run = fn () => Returned::by('what takes messages', ($this->onMessage)($data, $from));
            $this->session->take(new Task(null, $what, $run, $bytes, false));
        }
    }

    private function sendMessage(string $command, mixed $data): void
    {
        if (!$this->isSupervised()) {
            throw new InvalidRequest('worker', 'no sidecar has started this process, so nobody takes what it sends');
        }
        try {
            $message = ['cmd' => $command, 'data' => $data];
            // The sidecar disconnects a worker that sends more values than others can accept.
            (new Scanner())->scan(MessagePack::pack($message, Scanner::MAX_DEPTH));
        } catch (\InvalidArgumentException | \UnexpectedValueException $why) {
            throw new InvalidRequest('data', "it cannot be sent: {$why->getMessage()}");
        }
        $this->sendWhenRead($message);
    }

    /**
     * Sends a message, once the sidecar has read most of what it was sent before.
     *
     * @param array<string, mixed> $message
     */
    private function sendWhenRead(array $message): void
    {
        $line = $this->join();
        $until = hrtime(true) + self::CHANNEL_TIMEOUT_SECONDS * 1e9;
        while ($line->isFull() && $line->end() === null) {
            if (hrtime(true) > $until) {
                throw new Overloaded('the sidecar does not read what this worker sends');
            }
            Loop::select([], [$line->stream], self::RETRY_SECONDS);
            $line->write();
        }
        $line->send($message);
        // What it was to stop or to prolong is another's by now.
        if ($line->end() !== null) {
            throw new Disconnected($line->end());
        }
    }

    /**
     * The connection to the sidecar that started this process. Its requests wait for `tick()`.
     *
     * @throws Disconnected if it does not accept one, or has ended
     */
    private function join(): Line
    {
        while (($line = $this->link->line()) === null) {
            array_push($this->received, ...$this->link->receive(true));
            if ($this->link->line() === null) {
                Loop::select([$this->link->stream()], [], self::RETRY_SECONDS);
            }
        }
        if ($line->end() !== null) {
            throw new Disconnected($line->end());
        }
        $this->log->flush($line);
        return $line;
    }
}
